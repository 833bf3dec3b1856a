"""Rows of the study with classes that the student has not been taught: a new one, and ones without labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pocketstep.architectures import blueprint_of, mark
from pocketstep.data import Dataset
from pocketstep.history import Watch
from pocketstep.parallel import best_device
from pocketstep.recipe import IncrementRecipe, UnseenRecipe
from pocketstep.stages import new_teacher, train, transfer

if TYPE_CHECKING:
    from pocketstep.bench.compress import Row, Study


def increment_rows(study: Study, part: IncrementRecipe) -> list[Row]:
    """9+1 classes (Table 4): teacher and student of the cloud's classes, then images of the next class.

    A row without transfer, one with, and one for each number of replayed images per old class.
    """
    student_parts = (study.recipe.compress, study.recipe.transfer)
    known = list(study.data.classes[: study.recipe.data.cloud_classes])
    new = study.data.classes[len(known)]
    old = study.data.select(known)
    judged = study.test.select([*known, new])

    def teach() -> tuple[nn.Module, Row]:
        network = new_teacher(study.recipe, old).to(best_device())
        history = train(
            study.recipe.teacher, study.recipe, network, old, "old-teacher", study.watching(), like=study.data
        )
        return network, study.facts(network, [history], study.test.select(known))

    teacher, _ = study.row("old-teacher", teach)

    def compress() -> tuple[nn.Module, Row]:
        student = study.student(teacher, study.recipe.compress.threshold).to(best_device())
        histories = transfer(
            study.recipe, teacher.to(best_device()), student, old, study.watching(), stage="old-student",
            like=study.data,
        )  # fmt: skip
        return student, study.facts(student, histories, study.test.select(known))

    student, _ = study.row("old-student", compress, *student_parts)

    def learn(name: str, replay: int, method: str) -> Row:
        def make() -> tuple[nn.Module, Row]:
            network = widened(student, len(known) + 1).to(best_device())
            recipe = replace(study.recipe, transfer=replace(part, method=method))
            data = with_replay(study.data, [*known, new], replay, study.recipe.data.seed)
            watch = Watch(study.held_back.select([*known, new]), 4, keep_best=True, score=groups_mean)
            histories = transfer(
                recipe,
                teacher.to(best_device()),
                network,
                data,
                study.watching(),
                stage=name,
                watch=watch,
                like=study.data,
            )
            return network, study.facts(network, histories, judged)

        row = study.row(name, make, *student_parts, part)[1]
        classes = np.array(row["classes"])
        figures = {"old": float(classes[:-1].mean()), "new": float(classes[-1]), "groups": groups_mean(classes)}
        return {**row, **figures, "replay": replay, "method": method, "new_class": new}

    rows = [learn(f"new-none-{part.replay[0]}", part.replay[0], "none")]
    return rows + [learn(f"new-{part.method}-{count}", count, part.method) for count in part.replay]


def unseen_rows(study: Study, part: UnseenRecipe, teacher: nn.Module) -> list[Row]:
    """Unlabelled images of some classes (Table 7); accuracy on the others, among all."""
    seen = [study.data.classes.index(name) for name in part.classes]
    others = [index for index in range(len(study.data.classes)) if index not in seen]
    images = _rows(study.data, np.isin(study.data.labels, seen))

    def learn(threshold: float, method: str, mix: bool) -> Row:
        name = f"unseen-p{threshold:g}-{method}{'-mixed' if mix else ''}"

        def make() -> tuple[nn.Module, Row]:
            network = study.student(teacher, threshold).to(best_device())
            recipe = replace(study.recipe, transfer=replace(part, method=method, mix=mix))
            histories = transfer(
                recipe, teacher.to(best_device()), network, images, study.watching(), stage=name,
                labelled=method != "blocks", like=study.data,
            )  # fmt: skip
            return network, study.facts(network, histories)

        row = study.row(name, make, study.recipe.compress, part)[1]
        unseen = float(np.array(row["classes"])[others].mean())
        settings = {"threshold": threshold, "method": method, "mix": mix, "trained_on": list(part.classes)}
        return {**row, "unseen": unseen, **settings}

    rows = [learn(part.thresholds[0], method, False) for method in ("none", "fitnet")]
    rows += [learn(part.thresholds[0], part.method, False)] if part.mix else []
    return rows + [learn(threshold, part.method, part.mix) for threshold in part.thresholds]


def groups_mean(classes: npt.NDArray[np.float64]) -> float:
    """The paper's average: of the old classes' mean and the new (last) class."""
    return float((np.nanmean(classes[:-1]) + classes[-1]) / 2)


def widened(network: nn.Module, classes: int) -> nn.Module:
    """A copy whose head knows more classes; the new rows start at zero weight and the old rows' mean bias."""
    made = copy.deepcopy(network)
    name, head = [(n, m) for n, m in made.named_modules() if isinstance(m, nn.Linear)][-1]
    wider = nn.Linear(head.in_features, classes).to(head.weight.device)
    with torch.no_grad():
        wider.weight.zero_()
        wider.bias.fill_(head.bias.mean())
        wider.weight[: head.out_features], wider.bias[: head.out_features] = head.weight, head.bias
    parent, _, key = name.rpartition(".")
    setattr(made.get_submodule(parent), key, wider)
    blueprint = blueprint_of(made)
    if blueprint:
        mark(made, replace(blueprint, classes=classes))
    return made


def with_replay(data: Dataset, names: list[str], per_class: int, seed: int) -> Dataset:
    """All images of the last class, and so many of each class before it; labelled in the order of the names.

    Those of earlier classes are there as often as makes every class as frequent as the new one.
    """
    chosen = data.select(names)
    new = np.flatnonzero(chosen.labels == len(names) - 1)
    old = list[npt.NDArray[np.int64]]()
    if per_class:
        rng = np.random.default_rng(seed)
        kept = [rng.permutation(np.flatnonzero(chosen.labels == c))[:per_class] for c in range(len(names) - 1)]
        old = [np.resize(rows, len(new)) for rows in kept]
    return _rows(chosen, np.concatenate([new, *old]))


def _rows(data: Dataset, rows: Any) -> Dataset:
    """Some images, which need not have all classes."""
    part = object.__new__(Dataset)
    for name, value in (("images", data.images[rows]), ("labels", data.labels[rows]), ("classes", data.classes)):
        object.__setattr__(part, name, value)
    return part
