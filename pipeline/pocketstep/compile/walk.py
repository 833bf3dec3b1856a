"""The interpreter: walks a network's graph once, in NHWC, with the trained parameters as variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pocketstep.compile import operators as op
from pocketstep.compile.rules import rule_for
from pocketstep.compile.trace import Network, call, module_path
from pocketstep.plan import Parameter, Plan, crossings, is_map
from pocketstep_device.errors import InputError


@dataclass
class Kernels:
    """The constants of all convolutions, built once and shared by every signature that runs them."""

    made: dict[str, op.Convolution] = field(default_factory=dict)


class Walk:
    """One run of a stretch of the graph.

    Args:
        network: the traced network.
        plan: roles, cut and head.
        kernels: shared constants.
        state: trained tensors by name, as leaves of autograd or inputs of a program.
    """

    def __init__(self, network: Network, plan: Plan, kernels: Kernels, state: Mapping[str, Tensor]):
        self.network, self.plan, self.kernels, self.state = network, plan, kernels, state
        self.values: dict[fx.Node, Tensor] = {}
        self.batch = 0

    def prefix(self, images: Tensor) -> Tensor:
        """Images (B, H, W, C), normalised, to the latent (B, h, w, c); any operator is welcome here."""
        self.values[self.network.input], self.batch = images, images.shape[0]
        order = self.network.operators
        for node in order[: order.index(self.plan.cut) + 1]:
            rule = rule_for(node)
            self.values[node] = rule(self, node) if rule else self._as_it_is(node)
        return self.values[self.plan.cut]

    def suffix(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The latent (B, h, w, c) to logits (B, slots) and the head's input, the features (B, D)."""
        self.values[self.plan.cut], self.batch = latent, latent.shape[0]
        order = self.network.operators
        for node in order[order.index(self.plan.cut) + 1 :]:
            if _is_constant_work(self.network, node):
                continue
            rule = rule_for(node)
            if rule is None:
                raise missing_rule(self.network, node)
            self.values[node] = rule(self, node)
        return self.values[self.network.output], self.value(self.plan.head.args[1])

    def value(self, argument: object) -> Tensor:
        """The value of an argument: an activation or a constant."""
        if isinstance(argument, fx.Node) and argument in self.values:
            return self.values[argument]
        return self.constant(argument)

    def constant(self, argument: object) -> Tensor:
        """The tensor of a constant argument."""
        assert isinstance(argument, fx.Node), argument
        return self.network.constants[argument.name]

    def operand(self, argument: Any, rank: int) -> Any:
        """An elementwise operator's operand, tensor or number: a constant beside a map is turned to NHWC."""
        if not isinstance(argument, fx.Node):
            return float(argument)
        value = self.value(argument)
        if argument.name in self.network.constants and rank == 4 and value.dim() > 0:
            shape = (*[1] * (4 - value.dim()), *value.shape)
            if value.numel() == shape[1]:
                return value.reshape(shape[1])
            return op.frozen(lambda: op.to_nhwc(value.reshape(shape)).contiguous())
        return value

    def trainable(self, parameter: Parameter) -> Tensor:
        """The variable that stands for a trained parameter."""
        assert parameter.trained is not None
        return self.state[parameter.trained]

    def convolution(
        self, node: fx.Node, stride: op.Pair, padding: op.Pair, dilation: op.Pair, groups: int
    ) -> op.Convolution:
        """The constants of a convolution; a centre role leaves the ring, its centre set to zero (CsKO)."""
        if node.name not in self.kernels.made:
            assert isinstance(node.args[1], fx.Node)
            kernel, bias = self.constant(node.args[1]), self.network.constant(node.args[2])
            if self.plan.role(self.network.names[node.args[1].name]) == "centre":
                kernel = op.frozen(lambda: ring(self.constant(node.args[1])))
            self.kernels.made[node.name] = op.Convolution(kernel, bias, stride, padding, dilation, groups)
        return self.kernels.made[node.name]

    def _as_it_is(self, node: fx.Node) -> Tensor:
        """An operator without a rule, in the frozen prefix: PyTorch's own, between permutes."""

        def read(argument: fx.Node) -> Tensor:
            value = self.value(argument)
            is_map = argument in self.values and isinstance(value, Tensor) and value.dim() == 4
            return op.to_nchw(value) if is_map else value

        arguments = fx.node.map_arg(node.args, read)
        result: Tensor = call(node, arguments, self.batch)
        return op.to_nhwc(result) if isinstance(result, Tensor) and result.dim() == 4 else result


def _is_constant_work(network: Network, node: fx.Node) -> bool:
    return bool(node.all_input_nodes) and all(a.name in network.constants for a in node.all_input_nodes)


def missing_rule(network: Network, node: fx.Node) -> InputError:
    """The error for an operator that cannot be trained through, with the nearest later cut that works."""
    order = network.operators
    for later in order[order.index(node) :]:
        rest = order[order.index(later) + 1 :]
        fine = all(rule_for(n) or _is_constant_work(network, n) for n in rest)
        if fine and module_path(later) and is_map(later) and crossings(network, later) == {later}:
            advice = f"cut after '{module_path(later)}' instead, the nearest later place that works"
            break
    else:
        advice = "train the head only (--plan head)"
    return InputError(
        f"module '{module_path(node) or 'top level'}' uses {node.target}, "
        f"which has no backward of inference operators: {advice}"
    )


def initial_state(network: Network, plan: Plan) -> dict[str, Tensor]:
    """The trained tensors as the network has them; spare class rows are zero.

    Returns:
        name -> float32 tensor: ``<module>.centre`` (I, O) or (C,), ``<module>.taps`` (kh*kw*I, O),
        ``head.weight`` (slots, D), ``head.bias`` (slots,).
    """
    by_name = {network.names[k]: v for k, v in network.constants.items()}
    return {p.trained: _initial(by_name[p.name], p) for p in plan.trained if p.trained is not None}


def _initial(value: Tensor, parameter: Parameter) -> Tensor:
    if parameter.role == "head":
        spare = (0, 0) * (value.dim() - 1) + (0, (parameter.trained_shape or value.shape)[0] - value.shape[0])
        return torch.nn.functional.pad(value, spare).clone()
    if parameter.role == "full":
        return value.permute(2, 3, 1, 0).reshape(parameter.trained_shape or ()).contiguous()
    centre = value[:, :, value.shape[2] // 2, value.shape[3] // 2]
    return centre[:, 0].clone() if parameter.trained_shape == (value.shape[0],) else centre.t().contiguous()


def fold_back(network: Network, plan: Plan, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors back as plain weights under their qualified names (CsKO: the 1x1 zero-padded and added).

    Differentiable, so that autograd through the plain network gives the oracle of every compiled gradient.
    """
    by_name = {network.names[k]: v for k, v in network.constants.items()}
    plain: dict[str, Tensor] = {}
    for p in plan.trained:
        value = state[p.trained or ""]
        if p.role == "full":
            _, inputs, height, width = p.shape
            value = value.reshape(height, width, inputs, -1).permute(3, 2, 0, 1)
        elif p.role == "centre":
            value = _with_centre(by_name[p.name], value)
        plain[p.name] = value
    return plain


def ring(kernel: Tensor) -> Tensor:
    """A kernel (O, I, kh, kw) with its centre set to zero: what stays frozen beside a trained centre (CsKO)."""
    kernel = kernel.clone()
    kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] = 0
    return kernel


def _with_centre(kernel: Tensor, centre: Tensor) -> Tensor:
    height, width = kernel.shape[2:]
    tap = (centre[:, None] if centre.dim() == 1 else centre.t())[:, :, None, None]
    after: Sequence[int] = (width - 1 - width // 2, height - 1 - height // 2)
    return ring(kernel) + torch.nn.functional.pad(tap, (width // 2, after[0], height // 2, after[1]))
