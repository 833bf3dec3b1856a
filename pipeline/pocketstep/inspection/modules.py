"""Parameters gathered by module, in the order of the network, and where among them the cut lies."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pocketstep_device.manifest import Parameter, Plan

ROLES = ("frozen", "centre", "full", "head")
"""From least to most trained."""


def modules_of(plan: Plan) -> list[dict[str, Any]]:
    """One dictionary a module that has parameters.

    Returns:
        ``name``; ``role`` (the most trained of its parameters'); ``parameters`` (name, role, shape, trained, group);
        ``numbers`` (how many); ``kernel`` (height, width); ``outputs`` (channels or rows); ``behind`` (whether it
        lies behind the cut); ``paths`` (whether it is split into critical paths, one a class).
    """
    split = {path.name.rpartition(".")[0] for path in plan.paths}
    gathered: dict[str, list[Parameter]] = {}
    for parameter in plan.parameters:
        gathered.setdefault(parameter.name.rpartition(".")[0], []).append(parameter)
    before = _before_cut(list(gathered), [any(p.trained for p in own) for own in gathered.values()], plan.cut)
    return [
        {
            "name": name,
            "role": max((p.role for p in own), key=ROLES.index),
            "parameters": [_described(p) for p in own],
            "numbers": sum(math.prod(p.shape) for p in own),
            "kernel": next((list(p.shape[2:]) for p in own if len(p.shape) == 4), [1, 1]),
            "outputs": max((p.shape[0] for p in own if p.shape), default=1),
            "behind": index >= before,
            "paths": name in split,
        }
        for index, (name, own) in enumerate(gathered.items())
    ]


def _described(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "role": parameter.role,
        "shape": list(parameter.shape),
        "trained": parameter.trained,
        "group": parameter.group,
    }


def _before_cut(names: Sequence[str], trained: Sequence[bool], cut: str) -> int:
    """How many modules lie before the cut.

    The manifest names the module of the cut's operator, which may have no parameters (``group1.0.relu2``). Before it
    lie the modules up to the last one that shares most of its path and is not numbered higher (``group1.0.conv2``);
    never a trained one.
    """
    first = next((index for index, found in enumerate(trained) if found), len(names))
    shared = [_shared(name, cut) for name in names[:first]]
    best = max(shared, default=-1)
    if best < 0 or (best == 0 and _number(cut.split(".")[0]) is None):
        return first
    return max(index for index, depth in enumerate(shared) if depth == best) + 1


def _shared(name: str, cut: str) -> int:
    """Components that two paths share; -1 where the next one's number comes later than the cut's."""
    own, other = name.split("."), cut.split(".")
    depth = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
    if depth < len(own) and depth < len(other):
        mine, its = _number(own[depth]), _number(other[depth])
        if mine is not None and its is not None and mine > its:
            return -1
    return depth


def _number(component: str) -> int | None:
    found = re.search(r"[0-9]{1,9}$", component)
    return int(found[0]) if found else None


def rows_of(modules: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most about ``limit`` rows: parameters, else modules, else neighbours gathered under ever shorter paths.

    Roles, and both sides of the cut, stay apart.

    Returns:
        ``name``, ``role``, ``behind``, ``count`` of modules (0 for a row that is a parameter), ``shapes`` (None where
        there are several modules), ``trained``, ``groups``, ``numbers``.
    """
    if sum(len(module["parameters"]) for module in modules) <= limit:
        return [
            _row(p["name"], [{**m, "role": p["role"], "parameters": [p]}], 0) for m in modules for p in m["parameters"]
        ]
    rows = [_row(module["name"], [module], 1) for module in modules]
    deepest = max((module["name"].count(".") for module in modules), default=0)
    for depth in range(deepest, 0, -1):
        if len(rows) <= limit:
            break
        rows = _merged(modules, depth)
    return rows


def _merged(modules: Sequence[dict[str, Any]], depth: int) -> list[dict[str, Any]]:
    runs: list[tuple[Any, list[dict[str, Any]]]] = []
    for module in modules:
        key = ".".join(module["name"].split(".")[:depth]), module["role"], module["behind"]
        if not runs or runs[-1][0] != key:
            runs.append((key, []))
        runs[-1][1].append(module)
    return [_row(own[0]["name"] if len(own) == 1 else key[0], own, len(own)) for key, own in runs]


def _row(name: str, own: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    parameters = [p for module in own for p in module["parameters"]]
    return {
        "name": name,
        "role": own[0]["role"],
        "behind": own[0]["behind"],
        "count": count,
        "shapes": [p["shape"] for p in parameters] if count <= 1 else None,
        "trained": any(p["trained"] for p in parameters),
        "groups": sorted({p["group"] for p in parameters if p["group"]}),
        "numbers": sum(math.prod(p["shape"]) for p in parameters),
    }
