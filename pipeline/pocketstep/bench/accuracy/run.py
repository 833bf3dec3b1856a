"""One table of class increments: every method asked for, over all seeds, and what the table needs to be understood."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketstep.bench.accuracy.base import MEAN, STD
from pocketstep.bench.accuracy.fine_tuning import FINE_TUNING, fine_tuned
from pocketstep.bench.accuracy.incremental import METHODS, Result, Stage, closed_forms, trained
from pocketstep.bench.accuracy.material import Material, Settings, penultimate
from pocketstep.bench.accuracy.rivals import RIVALS
from pocketstep.bench.accuracy.stream import Course, Protocol, first_classes, per_class
from pocketstep.data import Dataset
from pocketstep.training import accuracy_per_class, evaluate
from pocketstep_device.errors import InputError

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What to measure.

    Attributes:
        protocol: experiences.
        settings: of the base and the bundles; its seed is the first one's.
        methods: keys of ``METHODS`` and ``RIVALS``, or ``FINE_TUNING``.
        seeds: how many class orders.
        test_per_class: test images of each class; None for all.
        store_mb: most MiB of a device's stored latents.
        runtime, threads: where programs run.
    """

    protocol: Protocol
    settings: Settings
    methods: Sequence[str]
    seeds: int = 1
    test_per_class: int | None = None
    store_mb: float = 16.0
    runtime: str = "litert"
    threads: int = 2


def check(methods: Sequence[str]) -> None:
    """That every method is known.

    Raises:
        InputError: one is not.
    """
    for name in methods:
        if name not in METHODS and name not in RIVALS and name != FINE_TUNING:
            raise InputError(f"there is no method '{name}'; choose of {', '.join([*METHODS, *RIVALS, FINE_TUNING])}")


def measure(order: Order, train: Dataset, test: Dataset, folder: Path, tell: Tell) -> dict[str, Any]:
    """Runs all of it; finished bases, bundles and latents in ``folder`` are used again.

    Returns:
        ``rows`` (a method each: ``average``, ``last``, ``forgetting`` as mean and spread over seeds, the first seed's
        ``curve``, seconds an update, bytes), ``base`` (accuracy of the base, each seed) and the settings.
    """
    check(order.methods)
    if order.test_per_class:
        test = test.per_class(order.test_per_class, 0)
    results: dict[str, list[Result]] = {name: [] for name in order.methods}
    for material in _materials(order, train, test, folder, tell):
        for result in _one_seed(order, material, tell):
            results[result.name].append(result)
    bases = [r.course.curve[0] for r in next(iter(results.values()))]
    rows = [_row(found) for found in results.values()]
    return {
        "protocol": {"first": order.protocol.first, "seen": order.protocol.seen(len(train.classes))},
        "base": bases, "kind": order.settings.kind, "epochs": order.settings.epochs,
        "test_images": len(test), "runtime": order.runtime, "rows": rows,
    }  # fmt: skip


def bases(order: Order, train: Dataset, test: Dataset, folder: Path, tell: Tell) -> list[float]:
    """Trains every class order's base and nothing else, say where there is a GPU; other machines go on in the folder.

    Returns:
        Each one's accuracy (0..1) on the test images of its classes, by PyTorch.
    """
    found = []
    for material in _materials(order, train, test, folder, tell):
        asked = first_classes(material.test, order.settings.first)
        logits = evaluate(material.base(), asked, MEAN, STD)
        found.append(float(accuracy_per_class(logits, asked.labels, len(asked.classes)).mean()))
        tell(f"base of class order {len(found)}: {found[-1]:.1%}")
    return found


def _materials(order: Order, train: Dataset, test: Dataset, folder: Path, tell: Tell) -> Iterator[Material]:
    for seed in range(order.seeds):
        settings = replace(order.settings, seed=order.settings.seed + seed)
        yield Material.of(train, test, settings, folder, tell)


def _one_seed(order: Order, material: Material, tell: Tell) -> list[Result]:
    runtime, threads = order.runtime, order.threads
    stage = Stage(
        material.encoded(material.train, "train", runtime, threads),
        material.encoded(material.test, f"test{len(material.test)}", runtime, threads), material.train.classes,
        order.protocol.seen(len(material.train.classes)), material.folder, runtime, threads, order.store_mb,
        order.settings.replay_per_class,
    )  # fmt: skip
    shared = {n: METHODS[n] for n in order.methods if n in METHODS and not METHODS[n].alone}
    results = closed_forms(stage, material.bundle("bare", runtime), shared, tell) if shared else []
    results += rivals([n for n in order.methods if n in RIVALS], material, stage.seen, tell)
    if FINE_TUNING in order.methods:
        results.append(fine_tuned(material, stage.seen, tell))
    for name in order.methods:
        if name in METHODS and METHODS[name].alone:
            method = METHODS[name]
            results.append(trained(stage, material.bundle(method.bundle, runtime), name, method, tell))
    return results


def rivals(names: Sequence[str], material: Material, seen: list[int], tell: Tell) -> list[Result]:
    """Methods that no bundle ships, on the base's penultimate features; seconds are those of head and scores."""
    if not names:
        return []
    net, results = material.base(), []
    features, probes = (penultimate(net, data) for data in (material.train, material.test))
    labels, wanted = torch.from_numpy(material.train.labels), material.test.labels
    for name in names:
        rows, seconds = [], []
        for number, known in enumerate(seen):
            mine, asked = labels < known, wanted < known
            start = time.perf_counter()
            with torch.enable_grad():
                scores = RIVALS[name].scores(
                    features[mine], labels[mine], probes[torch.from_numpy(asked)], seen[: number + 1]
                )
            seconds.append(time.perf_counter() - start)
            rows.append(per_class(scores.argmax(1).numpy(), wanted[asked], known))
            tell(f"{name}: {rows[-1].mean():.1%} of {known} classes")
        kept = 4 * RIVALS[name].kept(features.shape[1], seen[-1])
        results.append(Result(name, f"{name}, PyTorch", Course(rows), seconds[1:], kept))
    return results


def _row(results: list[Result]) -> dict[str, Any]:
    first = results[0]
    summary: dict[str, Any] = {"method": first.name, "title": first.title, "curve": first.course.curve}
    for what in ("average", "last", "forgetting"):
        values = [getattr(result.course, what) for result in results]
        summary[what], summary[f"{what}_spread"] = float(np.mean(values)), float(np.std(values))
    seconds = [s for result in results for s in result.seconds]
    summary["seconds"] = float(np.median(seconds)) if seconds else None
    summary["bytes"] = max(result.bytes for result in results) or None
    return summary
