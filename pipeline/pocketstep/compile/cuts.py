"""Where the frozen prefix may end: places that a single feature map crosses; and the groups of a network."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from torch import Tensor, fx

from pocketstep.compile.graph import Network, module_path, module_paths
from pocketstep_device.errors import InputError


def is_map(node: fx.Node) -> bool:
    """Whether an operator gives one feature map, (N, C, H, W)."""
    return isinstance(node.meta["val"], Tensor) and node.meta["val"].dim() == 4


def after(network: Network, cut: fx.Node) -> set[fx.Node]:
    """The operators that run after ``cut``; all of them where it is the input."""
    order = network.operators
    return set(order[order.index(cut) + 1 :]) if cut in order else set(order)


def crossings(network: Network, cut: fx.Node) -> set[fx.Node]:
    """The tensors that operators after ``cut`` read from at or before it (constants left out)."""
    order = {node: index for index, node in enumerate(network.graph.nodes)}
    return {
        source
        for node in after(network, cut)
        for source in node.all_input_nodes
        if order[source] <= order[cut] and source.name not in network.constants
    }


def single_maps(network: Network) -> list[fx.Node]:
    """The feature maps that cross alone, in order: every possible cut. One pass, from the end."""
    order = network.operators
    position = {node: index for index, node in enumerate(order)}
    first_alone = len(order)
    found: list[fx.Node] = []
    needed: set[fx.Node] = set()
    for index in range(len(order) - 1, -1, -1):
        node = order[index]
        if first_alone > index and needed == {node} and is_map(node):
            found.append(node)
        needed.discard(node)
        sources = (s for s in node.all_input_nodes if s.name not in network.constants)
        needed.update(s for s in sources if s is network.input or s in position)
    return found[::-1]


def named_cut(network: Network, name: str) -> fx.Node:
    """The last operator of a module.

    Raises:
        InputError: no such module; close names are in the message.
    """
    inside = [n for n in network.operators if name in module_paths(n)]
    if not inside:
        known = sorted({p for n in network.operators for p in module_paths(n)})
        close = difflib.get_close_matches(name, known, n=3) or known[:8]
        raise InputError(f"the network has no module '{name}' to cut after; did you mean {', '.join(close)}?")
    last = inside[-1]
    return last if isinstance(last.meta["val"], Tensor) else next(iter(last.users), last)


def latest_cut(network: Network, trained: Collection[fx.Node]) -> fx.Node:
    """The latest place that every trained operator lies behind.

    Raises:
        InputError: no single map reaches the first of them.
    """
    order = network.operators
    first = min((order.index(node) for node in trained), default=len(order))
    before = [n for n in single_maps(network) if order.index(n) < first]
    if not before:
        name = module_path(order[first]) if first < len(order) else "the head"
        raise InputError(f"no single feature map reaches '{name}': train later modules only, or name a cut with --cut")
    return before[-1]


def check_cut(network: Network, cut: fx.Node, trained: Collection[fx.Node]) -> None:
    """Raises ``InputError`` where a cut leaves a trained operator before it, or more than one tensor crosses it."""
    behind = after(network, cut)
    early = [node for node in trained if node not in behind]
    if early:
        raise InputError(
            f"'{module_path(early[0])}' shall be trained but lies before the cut after '{module_path(cut)}'; "
            "cut earlier"
        )
    if crossings(network, cut) != {cut}:
        order = network.operators
        later = next((n for n in single_maps(network) if order.index(n) > order.index(cut) and module_path(n)), None)
        advice = f"; the nearest later place that works is after '{module_path(later)}'" if later else ""
        raise InputError(f"more than one tensor crosses the cut after '{module_path(cut)}'{advice}")
    if not is_map(cut):
        raise InputError(f"the latent after '{module_path(cut)}' is no feature map; cut earlier, before the pooling")


def last_of_groups(convolutions: Sequence[fx.Node]) -> list[fx.Node]:
    """The last convolution of each group: a run of at least two whose maps have one size (Zhao et al., section 3.1).

    A stem, alone at its size, is no group.
    """
    runs: list[list[fx.Node]] = []
    for node in convolutions:
        size = tuple(node.meta["val"].shape[2:])
        if runs and tuple(runs[-1][-1].meta["val"].shape[2:]) == size:
            runs[-1].append(node)
        else:
            runs.append([node])
    groups = [run for run in runs if len(run) > 1] or runs[-1:]
    return [run[-1] for run in groups]
