"""What a plan costs for one image: exact arithmetic in multiply-accumulates, and bytes.

Convolutions and products are counted; elementwise work, sums and the optimiser are not: beside them they are small,
and no two runtimes agree on what they cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from pocketstep.compile.graph import EXAMPLE_BATCH, Network, aten
from pocketstep.compile.rules.convolution import Geometry
from pocketstep.compile.rules.convolution import can_filter as can_filter
from pocketstep.plan import Parameter, Plan

FLOAT = 4
"""Bytes of a float32."""
PATCH = 4
"""Pixels that a filtered gradient stands for (Yang et al. 2023)."""
FACTORS: dict[Any, tuple[int, int]] = {
    aten.convolution.default: (0, 1),
    aten.mm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.bmm.default: (0, 1),
    aten.baddbmm.default: (1, 2),
}
"""Operator -> the positions of its two factors: what is multiplied, and the kernel or matrix that it meets."""


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates and bytes for one image; the head counts with all its class slots.

    Attributes:
        prefix: forward up to the cut.
        suffix: forward behind the cut.
        input_gradients: of every operator behind the cut whose input depends on a trained parameter; a convolution's
            exact input gradient costs what its forward does.
        weight_gradients: of the trained tensors: centre taps, all taps, the head.
        parameter_bytes: all parameters in float32.
        trained_bytes: the trained tensors in float32.
        state_bytes: the trained tensors and the optimiser's.
        latent_bytes: one latent as it is stored, int8.
        activation_bytes: the largest activation behind the cut, the latent included, in float32.
    """

    prefix: int
    suffix: int
    input_gradients: int
    weight_gradients: int
    parameter_bytes: int
    trained_bytes: int
    state_bytes: int
    latent_bytes: int
    activation_bytes: int

    @property
    def forward(self) -> int:
        """The whole network."""
        return self.prefix + self.suffix

    @property
    def step(self) -> int:
        """One training step from a stored latent: forward behind the cut, and both kinds of gradients."""
        return self.suffix + self.input_gradients + self.weight_gradients

    @property
    def forward_passes_exact(self) -> float:
        """A step in forward passes of the whole network, by arithmetic alone."""
        return self.step / self.forward

    def to_manifest(self) -> dict[str, float]:
        """The entries of the manifest's ``cost``."""
        return {
            "macs.forward": float(self.forward),
            "macs.prefix": float(self.prefix),
            "macs.suffix": float(self.suffix),
            "macs.input_gradients": float(self.input_gradients),
            "macs.weight_gradients": float(self.weight_gradients),
            "macs.step": float(self.step),
            "bytes.parameters": float(self.parameter_bytes),
            "bytes.trained": float(self.trained_bytes),
            "bytes.state": float(self.state_bytes),
            "bytes.latent": float(self.latent_bytes),
            "bytes.activation": float(self.activation_bytes),
        }


def cost(network: Network, plan: Plan, optimiser_tensors: int = 1, views: int = 1) -> Cost:
    """Counts a plan's arithmetic and bytes.

    With the plan's ``input_gradient`` at ``centre`` (CsKO) a convolution with a trained centre sends its gradient
    back through the centre tap alone; with ``gradient_filter`` both of its gradients see one value for four pixels,
    and the kernel is its sum over them.

    Args:
        network: the traced network.
        plan: roles, cut, slots, and how gradients pass trained centres.
        optimiser_tensors: kept beside each trained tensor: SGD's momentum, 1; Adam's two means, 2.
        views: of each image: 2 with its mirror image.
    """
    order = network.operators
    behind = order[order.index(plan.cut) + 1 :]
    counter = _Counter(network, plan)
    gradients = [counter.gradients(node) for node in behind]

    def an_image(count: int) -> int:
        return views * _per_image(count)

    trained = FLOAT * sum(math.prod(p.trained_shape or ()) for p in plan.trained)
    return Cost(
        prefix=an_image(sum(counter.forward(node) for node in order[: order.index(plan.cut) + 1])),
        suffix=an_image(sum(counter.forward(node) for node in behind)),
        input_gradients=an_image(sum(inputs for inputs, _ in gradients)),
        weight_gradients=an_image(sum(weights for _, weights in gradients)),
        parameter_bytes=FLOAT * sum(math.prod(p.shape) for p in plan.parameters.values()),
        trained_bytes=trained,
        state_bytes=trained * (1 + optimiser_tensors),
        latent_bytes=an_image(_size(plan.cut)),
        activation_bytes=FLOAT * an_image(max(_size(n) for n in [plan.cut, *behind] if not counter.is_constant(n))),
    )


class _Counter:
    """Counts operators in the order in which they run, for the trace's batch."""

    def __init__(self, network: Network, plan: Plan):
        self.network, self.plan = network, plan
        self._carrying: set[fx.Node] = set()

    def forward(self, node: fx.Node) -> int:
        """Multiply-accumulates of one operator; 0 for those that multiply nothing."""
        if node.target not in FACTORS or self.is_constant(node):
            return 0
        return _positions(node) * self._kernel_size(node)

    def gradients(self, node: fx.Node) -> tuple[int, int]:
        """Multiply-accumulates of one operator's input and weight gradients, and marks what depends on training."""
        trained = self._trained(node)
        if not trained and self._carrying.isdisjoint(node.all_input_nodes):
            return 0, 0
        back = self.forward(node)
        weights = _positions(node) * math.prod(trained.trained_shape or ()) if trained and back else 0
        if trained and trained.role == "centre":
            filtered = self.plan.gradient_filter and can_filter(Geometry.of(node), node.meta["val"].shape[2:])
            if filtered:
                weights //= PATCH
            if filtered or self.plan.input_gradient == "centre":
                back = weights
        through = sum(node.args[position] in self._carrying for position in FACTORS.get(node.target, ()))
        self._carrying.add(node)
        return through * back, weights

    def is_constant(self, node: fx.Node) -> bool:
        """Whether an operator works on constants only: its result is one, too."""
        sources = node.all_input_nodes
        return bool(sources) and all(source.name in self.network.constants for source in sources)

    def _trained(self, node: fx.Node) -> Parameter | None:
        """The trained kernel or matrix that an operator reads; a bias has no multiply-accumulates of its own."""
        if self.is_constant(node):
            return None
        found = [self.plan.parameters.get(name) for name, value in self.network.weights(node) if value.dim() > 1]
        return next((p for p in found if p is not None and p.trained is not None), None)

    def _kernel_size(self, node: fx.Node) -> int:
        """Weights that meet each position."""
        argument: Any = node.args[FACTORS[node.target][1]]
        shape = argument.meta["val"].shape
        size = math.prod(shape if node.target is aten.convolution.default else shape[-2:])
        if node is not self.plan.head:
            return int(size)
        return int(size // node.meta["val"].shape[1]) * self.plan.slots


def _positions(node: fx.Node) -> int:
    """How often the kernel or matrix is applied: pixels, rows."""
    argument: Any = node.args[FACTORS[node.target][0]]
    source, result = argument.meta["val"].shape, node.meta["val"].shape
    if node.target is aten.convolution.default:
        where = source if node.args[6] else result  # transposed: a kernel spreads from every input pixel
        return int(where[0] * math.prod(where[2:]))
    return int(math.prod(source[:-1]))


def _size(node: fx.Node) -> int:
    value = node.meta["val"]
    return value.numel() if isinstance(value, Tensor) else 0


def _per_image(count: int) -> int:
    return count // EXAMPLE_BATCH
