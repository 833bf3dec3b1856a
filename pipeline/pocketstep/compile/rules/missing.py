"""What to say where an operator cannot be trained through."""

from __future__ import annotations

from torch import fx

from pocketstep.compile.cuts import named_cut, single_maps
from pocketstep.compile.graph import Network, module_path, module_paths
from pocketstep.compile.rules.table import rule_for
from pocketstep.compile.values import is_constant
from pocketstep_device.errors import InputError


def missing_rule(network: Network, node: fx.Node) -> InputError:
    """The error for an operator that cannot be trained through, with the nearest later cut that works."""
    place = _nearest_cut(network, node)
    advice = f"cut after '{place}' instead, the nearest later place that works" if place else None
    return InputError(
        f"module '{module_path(node) or 'top level'}' uses {node.target}, which has no backward of inference "
        f"operators in this form: {advice or 'train the head only (--plan head)'}"
    )


def _nearest_cut(network: Network, node: fx.Node) -> str | None:
    """The name of a module whose output crosses alone, at or after ``node``, with nothing missing behind it."""
    order = network.operators
    position = {operator: index for index, operator in enumerate(order)}
    last = max((position[n] for n in order if rule_for(n) is None and not is_constant(network, n)), default=-1)
    for later in single_maps(network):
        if position[later] >= max(last, position[node]):
            for name in module_paths(later)[::-1]:
                if named_cut(network, name) is later:
                    return name
    return None
