"""What tables in the terminal and on the page have in common: facts in words, a row each."""

from __future__ import annotations

from typing import Any

from pocketstep.inspection import text

COST = {
    "forward_passes": "a step, in forward passes",
    "macs.forward": "forward",
    "macs.prefix": "  up to the cut, once an image",
    "macs.suffix": "  behind the cut",
    "macs.step": "a step, an image",
    "macs.input_gradients": "  input gradients",
    "macs.weight_gradients": "  weight gradients",
    "bytes.parameters": "all parameters",
    "bytes.trained": "trained tensors",
    "bytes.state": "  and the optimiser's",
    "bytes.latent": "a latent",
    "bytes.activation": "largest activation behind the cut",
}
"""What figures of the manifest's cost are called, in order."""


def shapes(row: dict[str, Any]) -> str:
    """Shapes of a row's parameters, or how many modules it stands for."""
    if row["shapes"] is None:
        return text.plural(row["count"], "module")
    return ", ".join(map(text.shape, row["shapes"]))


def roles_line(plan: dict[str, Any]) -> str:
    """How many parameters have which role."""
    return ", ".join(
        f"{role} {text.plural(found['parameters'], 'tensor')} ({text.count(found['numbers'])} numbers)"
        for role, found in plan["roles"].items()
        if found["parameters"]
    )


def cost_rows(cost: dict[str, float]) -> list[tuple[str, str]]:
    """What the manifest says of cost, in words; figures that it lacks are left out."""
    rows = [(name, cost[key], key) for key, name in COST.items() if key in cost]
    return [(name, _figure(key, value)) for name, value, key in rows]


def _figure(key: str, value: float) -> str:
    if key.startswith("bytes."):
        return text.size(value)
    return f"{text.count(value)} MACs" if key.startswith("macs.") else f"{value:.2f}"


def versions(runtime: dict[str, Any]) -> str:
    """Packages that exported a program."""
    return ", ".join(f"{package} {version}" for package, version in runtime["versions"].items())


def delegated(runtime: dict[str, Any]) -> str:
    """What an accelerator takes of a runtime's program, as far as its exporter said."""
    found = runtime["delegated"]
    if not found:
        return "not recorded"
    outside = {name: entry["outside"] for name, entry in found.items() if entry.get("outside")}
    if not outside:
        return f"all of {', '.join(found)}"
    left = ", ".join(f"{count} of {name}" for name, count in outside.items())
    return f"all but operators outside: {left}"


def device_rows(device: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """What a device keeps: state, the replay set that comes along, and what each sample adds."""
    rows = [
        (kind, str(found["tensors"]), text.count(found["numbers"]), text.size(found["bytes"]))
        for kind, found in device["state"].items()
    ]
    rows.append(("all state", "", "", text.size(device["state_bytes"])))
    if replay := device["replay"]:
        samples = f"replay: {text.plural(replay['samples'], 'sample')}, {replay['held_back']} held back"
        rows.append((samples, "", "", text.size(replay["bytes"])))
    rows.append(("each sample's latent, int8", "", "", text.size(device["latent_bytes"])))
    return rows


def memory_rows(memory: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """What an update will take on a device, by runtime."""
    return [
        (found["runtime"], text.size(found["program"]), text.size(found["data"]), text.size(found["bytes"]))
        for found in memory
    ]


def phase_rows(schedule: dict[str, Any]) -> list[tuple[str, str]]:
    """A schedule's phases: name, and settings in one line."""
    rows = []
    for phase in schedule["phases"]:
        settings = (f"{key} {text.plain(value)}" for key, value in phase.items() if key != "name")
        rows.append((text.plain(phase.get("name", phase["kind"])), ", ".join(settings)))
    return rows or [("", "no phases")]
