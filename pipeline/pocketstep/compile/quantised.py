"""int8 weights of the frozen prefix: rounded here, once, so that every runtime and the oracle use the same values."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketstep.compile.cuts import after
from pocketstep.compile.graph import Network, aten
from pocketstep.plan import Plan

LEVELS = 127


def round_prefix(network: Network, plan: Plan) -> int:
    """Replaces the kernels and matrices before the cut by their nearest int8 multiples of a scale a filter.

    Biases stay as they are. Runtimes whose format can, store the codes and the scales (a quarter of the bytes).

    Returns:
        How many weights were rounded.
    """
    behind, count = after(network, plan.cut), 0
    for node in network.operators:
        if node in behind or node.target not in (aten.convolution.default, aten.addmm.default, aten.mm.default):
            continue
        for source in node.all_input_nodes:
            source = source.all_input_nodes[0] if source.target is aten.permute.default else source
            value = network.constants.get(source.name)
            if value is not None and value.dim() > 1:
                network.constants[source.name] = rounded(value)
                count += value.numel()
    return count


def rounded(weight: Tensor) -> Tensor:
    """Each filter (rows of the first dimension) as whole multiples of its largest magnitude / 127, float32."""
    rows = weight.reshape(len(weight), -1)
    scale = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (torch.round(rows / scale) * scale).reshape(weight.shape)
