"""What a bundle's manifest says of its blueprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pocketstep import __version__
from pocketstep.blueprint import Blueprint
from pocketstep.compile import training
from pocketstep.compile.cost import cost
from pocketstep.compile.graph import module_path
from pocketstep.compile.signatures import Signature, Spec
from pocketstep.export import RUNTIMES
from pocketstep.export.report import Report
from pocketstep.schedules import hyper, schedules
from pocketstep_device.manifest import FORMAT
from pocketstep_device.manifest_checks import VERSION

KINDS = {"count": "statistics", "total": "statistics", "second": "statistics", "class_mask": "control",
         "blend": "control", "closed.weight": "head", "closed.bias": "head"}  # fmt: skip


def manifest_of(blueprint: Blueprint, reports: Mapping[str, Report]) -> dict[str, Any]:
    """All of a manifest but its files and what is measured on the bundle.

    Args:
        blueprint: what the bundle is made of.
        reports: of each runtime's export.
    """
    request, model, plan = blueprint.request, blueprint.model, blueprint.model.plan
    kinds = _state_kinds(blueprint)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": request.name,
        "producer": f"pocketstep {__version__}",
        "release": 0,
        "task": {
            "classes": list(request.classes),
            "slots": plan.slots,
            "input": {
                "shape": list(model.input_shape),
                "range": [0, 255],
                "colour": "grey" if model.input_shape[2] == 1 else "rgb",
                "mean": list(model.mean),
                "std": list(model.std),
            },
        },
        "latent": {"shape": list(model.latent_shape), "dtype": "int8"},
        "plan": {
            "preset": plan.preset,
            "cut": module_path(plan.cut),
            "parameters": _parameters(blueprint),
            **_paths(blueprint),
        },
        "signatures": {name: _signature(s) for name, s in blueprint.signatures.items()},
        "state": [
            {"name": name, "shape": list(value.shape), "dtype": "float32", "kind": kinds[name]}
            for name, value in blueprint.state.items()
        ],
        "hyper": hyper_of(blueprint),
        "schedules": schedules(
            statistics=bool(blueprint.state["count"].any()),
            options=blueprint.request.step,
            paths=blueprint.decoupling is not None,
            directions=model.directions is not None,
        ),
        "cost": cost(
            model.network, plan, 1 if request.step.optimiser == "sgd" else 2, 2 if model.mirrored else 1
        ).to_manifest(),
        "runtimes": {
            name: {"file": RUNTIMES[name], "versions": report.versions, "delegated": report.delegated}
            for name, report in reports.items()
        },
    }


def hyper_of(blueprint: Blueprint) -> dict[str, Any]:
    """The hyper-parameters that this plan has, see ``schedules.hyper``."""
    model = blueprint.model
    return hyper(blueprint.request.step, model.plan.trained_groups.values(), directions=model.directions is not None)


def _parameters(blueprint: Blueprint) -> list[dict[str, Any]]:
    return [
        {
            "name": p.name,
            "role": p.role,
            "shape": list(p.shape),
            "trained": p.trained is not None,
            "group": p.group,
        }
        for p in blueprint.model.plan.parameters.values()
    ]


def _paths(blueprint: Blueprint) -> dict[str, Any]:
    """Where the paths lie in the trained tensors; nothing where there are none."""
    found, decoupling = list[dict[str, Any]](), blueprint.decoupling
    for p in blueprint.model.plan.trained if decoupling else ():
        shape = p.trained_shape or ()
        axes = [0, 1] if p.trained == "head.weight" else [1] if len(shape) == 2 else [0]
        if p.role == "head" or p.name.removesuffix(".weight") in (decoupling.layers if decoupling else ()):
            found += [
                {"name": p.trained, "axis": axis, "size": shape[axis] // blueprint.model.plan.slots} for axis in axes
            ]
    return {"paths": found} if found else {}


def _signature(signature: Signature) -> dict[str, Any]:
    def tensors(specs: tuple[Spec, ...]) -> list[dict[str, Any]]:
        return [{**asdict(spec), "shape": list(spec.shape), "dtype": "float32"} for spec in specs]

    return {
        "batch": signature.batch,
        "inputs": tensors(signature.inputs),
        "outputs": tensors(signature.outputs),
    }


def _state_kinds(blueprint: Blueprint) -> dict[str, str]:
    known = {**KINDS, **training.state_kinds(blueprint.model, blueprint.request.step)}
    return {name: known.get(name, "parameter") for name in blueprint.state}
