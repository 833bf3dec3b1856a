"""The interpreter: walks a network's graph once, in NHWC, with the trained parameters as variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.graph import Network, module_path
from pocketstep.compile.heads import features_node
from pocketstep.compile.rules import rule_for
from pocketstep.compile.rules.convolution import Geometry
from pocketstep.compile.rules.missing import missing_rule
from pocketstep.compile.values import ValueStore
from pocketstep.plan import Parameter, Plan


@dataclass
class Kernels:
    """The constants of all convolutions, built once and shared by every signature that runs them.

    ``compact``: convolutions whose input gradient must do without a second constant, for the program's size.
    """

    made: dict[str, op.Convolution] = field(default_factory=dict)
    compact: frozenset[str] = frozenset()


class Walk(ValueStore):
    """One run of a stretch of the graph.

    Args:
        network: the traced network.
        plan: roles, cut and head.
        kernels: shared constants.
        state: trained tensors by name, as leaves of autograd or inputs of a program.
    """

    def __init__(self, network: Network, plan: Plan, kernels: Kernels, state: Mapping[str, Tensor]):
        super().__init__(network)
        self.plan, self.kernels, self.state = plan, kernels, state
        self.tap_inputs: dict[str, Tensor] = {}

    def prefix(self, images: Tensor) -> Tensor:
        """Images (B, H, W, C), normalised, to the latent (B, h, w, c); any operator is welcome here."""
        self.put(self.network.input, images)
        self.batch = images.shape[0]
        order = self.network.operators
        for node in order[: order.index(self.plan.cut) + 1]:
            if self.is_constant(node):
                continue
            rule = rule_for(node)
            if rule is None:
                self.run_as_it_is(node)
            else:
                self.put(node, rule(self, node))
        return self.value(self.plan.cut)

    def suffix(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The latent (B, h, w, c) to logits (B, slots) and the head's input, the features (B, D)."""
        self.put(self.plan.cut, latent)
        self.batch = latent.shape[0]
        order = self.network.operators
        for node in order[order.index(self.plan.cut) + 1 :]:
            if self.is_constant(node):
                continue
            rule = rule_for(node)
            if rule is None:
                raise missing_rule(self.network, node)
            self.put(node, rule(self, node))
        features = self.value(features_node(self.plan.head))
        features = op.Pool.apply(features) if features.dim() == 4 else features
        return self.value(self.network.output), features

    def trainable(self, parameter: Parameter) -> Tensor:
        """The variable that stands for a trained parameter."""
        assert parameter.trained is not None
        return self.state[parameter.trained]

    def convolution(self, node: fx.Node, geometry: Geometry) -> op.Convolution:
        """The constants of a convolution; a centre role leaves the ring, its centre set to zero (CsKO)."""
        if node.name not in self.kernels.made:
            assert isinstance(node.args[1], fx.Node)
            kernel, bias = self.constant(node.args[1]), self.network.constant(node.args[2])
            if self.plan.role(self.network.names[node.args[1].name]) == "centre":
                kernel = op.frozen(lambda: ring(self.constant(node.args[1])))
            self.kernels.made[node.name] = op.Convolution(
                kernel, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups,
                node.name in self.kernels.compact,
            )  # fmt: skip
        return self.kernels.made[node.name]


def unruled_prefix(network: Network, plan: Plan) -> dict[str, str]:
    """Operators of the frozen prefix that only PyTorch's own lowering knows -> the first module that uses each."""
    order = network.operators
    found: dict[str, str] = {}
    for node in order[: order.index(plan.cut) + 1]:
        if rule_for(node) is None:
            found.setdefault(str(node.target), module_path(node))
    return found


def initial_state(network: Network, plan: Plan) -> dict[str, Tensor]:
    """The trained tensors as the network has them; spare class rows are zero.

    Returns:
        name -> float32 tensor: ``<module>.centre`` (I, O) or (C,), ``<module>.taps`` (kh*kw*I, O),
        ``head.weight`` (slots, D), ``head.bias`` (slots,).
    """
    by_name = {network.names[k]: v for k, v in network.constants.items()}
    return {p.trained: _initial(by_name[p.name], p) for p in plan.trained if p.trained is not None}


def _initial(value: Tensor, parameter: Parameter) -> Tensor:
    shape = parameter.trained_shape or ()
    if parameter.role == "head":
        spare = shape[0] - value.shape[0]
        rows = value.reshape(value.shape[0], *shape[1:])
        return torch.nn.functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, spare)).clone()
    if parameter.role == "centre":
        value = value[:, :, value.shape[2] // 2, value.shape[3] // 2, None, None]
    return to_products(value, shape)


def to_products(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """Taps of a kernel (O, I/G, kh, kw) as the products that train them.

    Dense (kh*kw*I, O); grouped (G, kh*kw*I/G, O/G); depthwise (C,) for one tap or (kh*kw, C).
    """
    outputs, inputs, height, width = kernel.shape
    groups = shape[0] if len(shape) == 3 else 1
    if shape == (outputs,) or (inputs == 1 and tuple(shape) == (height * width, outputs) and groups == 1):
        return kernel.reshape(outputs, -1).t().reshape(shape).contiguous()
    grouped = kernel.reshape(groups, outputs // groups, inputs, height, width).permute(0, 3, 4, 2, 1)
    return grouped.reshape(shape).contiguous()


def from_products(value: Tensor, kernel: Sequence[int]) -> Tensor:
    """The counterpart of :func:`to_products`; ``kernel`` is the shape (O, I/G, kh, kw)."""
    outputs, inputs, height, width = kernel
    groups = value.shape[0] if value.dim() == 3 else 1
    if value.dim() == 1 or (inputs == 1 and tuple(value.shape) == (height * width, outputs)):
        return value.reshape(height * width, outputs).t().reshape(outputs, 1, height, width)
    grouped = value.reshape(groups, height, width, inputs, outputs // groups).permute(0, 4, 3, 1, 2)
    return grouped.reshape(outputs, inputs, height, width)


def fold_back(network: Network, plan: Plan, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors back as plain weights under their qualified names (CsKO: the 1x1 zero-padded and added).

    Differentiable, so that autograd through the plain network gives the oracle of every compiled gradient.
    """
    by_name = {network.names[k]: v for k, v in network.constants.items()}
    plain: dict[str, Tensor] = {}
    for p in plan.trained:
        value = state[p.trained or ""]
        if p.role == "full":
            value = from_products(value, p.shape)
        elif p.role == "centre":
            value = _with_centre(by_name[p.name], value)
        elif len(p.shape) == 4:
            value = value.reshape(*value.shape, 1, 1)
        plain[p.name] = value
    return plain


def ring(kernel: Tensor) -> Tensor:
    """A kernel (O, I, kh, kw) with its centre set to zero: what stays frozen beside a trained centre (CsKO)."""
    kernel = kernel.clone()
    kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] = 0
    return kernel


def _with_centre(kernel: Tensor, centre: Tensor) -> Tensor:
    height, width = kernel.shape[2:]
    tap = from_products(centre, (*kernel.shape[:2], 1, 1))
    after: Sequence[int] = (width - 1 - width // 2, height - 1 - height // 2)
    return ring(kernel) + torch.nn.functional.pad(tap, (width // 2, after[0], height // 2, after[1]))
