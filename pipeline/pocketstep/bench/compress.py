"""``pocketstep bench compress``: the paper's tables on a recipe's data, side by side in one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketstep.bench.host import machine
from pocketstep.bench.increment import increment_rows, unseen_rows
from pocketstep.console import Console
from pocketstep.criteria import prune_to
from pocketstep.data import Dataset, normalisation
from pocketstep.history import History, Watch
from pocketstep.parallel import best_device
from pocketstep.recipe import Recipe, StudyRecipe, load_recipe
from pocketstep.sources import load_data
from pocketstep.stages import (
    Watching,
    accuracy_of,
    check_teacher,
    narrowed,
    new_teacher,
    shortened,
    size_of,
    train,
    transfer,
)
from pocketstep.training import prepare
from pocketstep.weights import load_network, save_network
from pocketstep_device.errors import InputError
from pocketstep_device.storage import write_atomically

PARTS = ("curve", "criteria", "methods", "increment", "unseen")

Row = dict[str, Any]


class Study:
    """A recipe's study and the folder of its rows: a row that is there is not measured again.

    Args:
        recipe: a file or a name, with a [study].
        out: folder, made when missing.
        data: where the images are, if not where the recipe says.
        console: progress.

    Raises:
        InputError: no [study], bad images, or a network that cannot be built for them.
    """

    def __init__(self, recipe: str, out: Path, data: str | Path, console: Console):
        self.recipe, self.out, self.console = load_recipe(recipe), out, console
        if self.recipe.study is None:
            raise InputError(f"the recipe '{self.recipe.name}' has no [study]; see models/cifar10-small.toml")
        self.study: StudyRecipe = self.recipe.study
        if self.recipe.threads:
            torch.set_num_threads(self.recipe.threads)
        part = self.recipe.data
        everything, self.test = load_data(part.name, data or part.folder, size=part.size, seed=part.seed)
        if self.study.unseen:
            everything.select(self.study.unseen.classes)  # its error comes before the work
        self.data, self.held_back = everything.split(part.held_back, part.seed)
        check_teacher(new_teacher(self.recipe, self.data), self.data)
        for folder in (out, out / "rows"):
            folder.mkdir(parents=True, exist_ok=True)

    def measure(self, parts: Sequence[str]) -> dict[str, Any]:
        """All rows of some parts, and the teacher's."""
        rows: dict[str, list[Row]] = {part: [] for part in parts}
        teacher, taught = self.teacher()
        if "curve" in parts:
            rows["curve"] = [self._compressed(teacher, p) for p in self.study.thresholds]
        if "criteria" in parts:
            rows["criteria"] = [
                self._by_criterion(teacher, p, name) for p in self.study.criteria_at for name in self.study.criteria
            ]
        if "methods" in parts:
            rows["methods"] = [self._compressed(teacher, self.study.methods_at)]
            rows["methods"] += [self._by_method(teacher, name) for name in self.study.methods]
            rows["methods"] += [self._short(teacher, share) for share in self.study.short]
            rows["methods"] += [self._by_method(teacher, "scratch", times) for times in self.study.longer]
        if "increment" in parts and self.study.increment:
            rows["increment"] = increment_rows(self, self.study.increment)
        if "unseen" in parts and self.study.unseen:
            rows["unseen"] = unseen_rows(self, self.study.unseen, teacher)
        published = [list(row) for row in self.study.published]
        found = {
            "recipe": self.recipe.name, "network": self.recipe.teacher.network, "epochs": self.recipe.transfer.epochs,
            "teacher": taught, "rows": rows, "published": published, "machine": machine(),
        }  # fmt: skip
        write_atomically(self.out / "results.json", json.dumps(found, indent=1).encode())
        return found

    def teacher(self) -> tuple[nn.Module, Row]:
        """The teacher of all classes."""

        def make() -> tuple[nn.Module, Row]:
            network = new_teacher(self.recipe, self.data).to(best_device())
            history = train(
                self.recipe.teacher, self.recipe, network, self.data, "teacher", self.watching(), like=self.data
            )
            return network, self.facts(network, [history])

        return self.row("teacher", make)

    def row(self, name: str, make: Callable[[], tuple[nn.Module, Row]], *parts: Any) -> tuple[nn.Module, Row]:
        """A network and its figures, made or kept; ``parts`` of the recipe matter to it beside data and teacher."""
        figures, weights = self.out / "rows" / f"{name}.json", self.out / "rows" / f"{name}.safetensors"
        content = [asdict(part) for part in (self.recipe.data, self.recipe.teacher, *parts)]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        if figures.exists() and weights.exists():
            kept = json.loads(figures.read_text())
            if kept["digest"] == digest:
                return load_network(weights), kept
        network, row = make()
        network.cpu()
        save_network(network, weights)
        row |= {"name": name, "digest": digest}
        write_atomically(figures, json.dumps(row).encode())
        for stage in (name, f"{name}-hints"):  # no other row's, which another process may be at
            (self.out / f"{stage}.training").unlink(missing_ok=True)
        return network, row

    def facts(self, network: nn.Module, histories: Sequence[History], test: Dataset | None = None) -> Row:
        """Accuracy per class on test images, size, and how the training went."""
        judged = test or self.test
        classes = accuracy_of(network, judged, self.data, self.recipe)
        macs, parameters = size_of(network, judged)
        curve: list[tuple[int, float]] = []
        steps = 0
        for history in histories:
            curve += [(steps + step, accuracy) for step, accuracy in history.curve]
            steps += history.epochs[-1].steps
        return {
            "accuracy": float(np.nanmean(classes)), "classes": classes.tolist(), "parameters": parameters,
            "macs": macs, "curve": curve, "steps": steps, "seconds": sum(h.seconds for h in histories),
        }  # fmt: skip

    def student(self, teacher: nn.Module, threshold: float) -> nn.Module:
        """Shallow and thin, not retrained."""
        part = replace(self.recipe.compress, threshold=threshold)
        recipe = replace(self.recipe, compress=part)
        return narrowed(recipe, shortened(recipe, teacher.cpu())[0], self.data)[0]

    def watching(self) -> Watching:
        """The console and the folder."""
        return Watching(self.console.training, self.console.training_step, self.out)

    def _row(self, name: str, make: Callable[[], tuple[nn.Module, Row]]) -> tuple[nn.Module, Row]:
        return self.row(name, make, self.recipe.compress, self.recipe.transfer)

    def _retrained(
        self, teacher: nn.Module, student: nn.Module, stage: str, recipe: Recipe | None = None,
        data: Dataset | None = None,
    ) -> tuple[nn.Module, Row]:  # fmt: skip
        device, watch = best_device(), Watch(self.held_back, self.study.watch_every)
        teacher, student = teacher.to(device), student.to(device)
        histories = transfer(
            recipe or self.recipe, teacher, student, data or self.data, self.watching(), stage=stage, watch=watch,
            like=self.data,
        )  # fmt: skip
        return student, self.facts(student, histories)

    def _compressed(self, teacher: nn.Module, threshold: float) -> Row:
        name = f"p{threshold:g}"
        made = self._row(name, lambda: self._retrained(teacher, self.student(teacher, threshold), name))
        return {**made[1], "threshold": threshold, "importance": "activation", "method": "blocks"}

    def _by_criterion(self, teacher: nn.Module, threshold: float, importance: str) -> Row:
        def make() -> tuple[nn.Module, Row]:
            goal = size_of(self.student(teacher, threshold), self.test)[1]
            few = self.data.per_class(self.recipe.compress.images_per_class, self.recipe.data.seed)
            images = prepare(few.images, *normalisation(self.data), self.recipe.data.per_image)
            student, _ = prune_to(
                shortened(self.recipe, teacher)[0], images, goal, importance=importance,
                labels=torch.from_numpy(few.labels), seed=self.recipe.data.seed,
            )  # fmt: skip
            return self._retrained(teacher, student, name)

        name = f"p{threshold:g}-{importance}"
        return {**self._row(name, make)[1], "threshold": threshold, "importance": importance, "method": "blocks"}

    def _by_method(self, teacher: nn.Module, method: str, times: int = 1) -> Row:
        def make() -> tuple[nn.Module, Row]:
            student = self.student(teacher, threshold)
            if method == "scratch":
                forget(student, self.recipe.transfer.seed)
            part = replace(
                self.recipe.transfer, method="none" if method == "scratch" else method,
                epochs=times * self.recipe.transfer.epochs,
            )  # fmt: skip
            return self._retrained(teacher, student, name, replace(self.recipe, transfer=part))

        threshold = self.study.methods_at
        longer = times > 1
        name = f"p{threshold:g}-{method}{f'-{times}-times' if longer else ''}"
        shown = f"{method}, {times} times the epochs" if longer else method
        return {**self._row(name, make)[1], "threshold": threshold, "importance": "activation", "method": shown}

    def _short(self, teacher: nn.Module, share: float) -> Row:
        threshold = self.study.methods_at
        name = f"p{threshold:g}-short{share:g}"

        def make() -> tuple[nn.Module, Row]:
            few = self.data.split(share, self.recipe.data.seed)[1] if share < 1 else self.data
            return self._retrained(teacher, self.student(teacher, threshold), name, data=few)

        row = {"threshold": threshold, "importance": "activation", "method": f"blocks, {share:g} of the images"}
        return {**self._row(name, make)[1], **row}


def forget(network: nn.Module, seed: int) -> None:
    """Random weights in place of the inherited ones; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
