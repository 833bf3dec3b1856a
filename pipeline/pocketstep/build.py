"""``pocketstep build``: stages that are kept, so that a build resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from pocketstep.assemble import build_bundle
from pocketstep.blueprint import request_of
from pocketstep.checkpoint import digest
from pocketstep.console import Console
from pocketstep.data import normalisation
from pocketstep.decouple.specialise import specialise
from pocketstep.decouple.stage import Decoupled, decouple_stage, need_section
from pocketstep.decouple.surgery import decoupling_of, need_decoupling
from pocketstep.export import RUNTIMES
from pocketstep.export.run import Exporters
from pocketstep.recipe import Recipe, load_recipe
from pocketstep.stages import Material, Trained, Watching, check_teacher, compress, judge, load_material, train_teacher
from pocketstep.weights import load_network, save_network
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.storage import write_atomically

TEACHER_PARTS = ("data", "teacher")
STUDENT_PARTS = (*TEACHER_PARTS, "compress", "transfer")


class Workshop:
    """A recipe and the folder of its finished stages; a stage is redone when its part of the recipe changed.

    A training that was killed goes on where it was. Under ``accelerate launch`` the first process writes.

    Args:
        recipe: a file or a name, or what was read of one.
        folder: made when missing.
        data: where the images are, if not where the recipe says.
        teacher: a network's file to use in place of training one.
    """

    def __init__(self, recipe: str | Recipe, folder: Path, data: str | Path = "", teacher: Path | None = None):
        self.recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        self.material = load_material(self.recipe, data)
        self.folder, self._given = folder, load_network(teacher) if teacher else None
        if self._given is not None:
            check_teacher(self._given, self.material.cloud)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error}; give another folder") from None

    def teacher(self, console: Console) -> Trained:
        """The teacher: given, trained or kept."""
        kept = self._given if self._given is not None else self._kept("teacher", TEACHER_PARTS)
        if kept is not None:
            return judge(kept, self.material, self.recipe)
        trained = train_teacher(self.recipe, self.material, self.watching(console))
        self._keep("teacher", TEACHER_PARTS, trained.network)
        return trained

    def student(self, console: Console) -> Trained:
        """The compressed student, trained or kept."""
        kept = self._kept("student", STUDENT_PARTS)
        if kept:
            return judge(kept, self.material, self.recipe)
        teacher = self.teacher(console)
        trained = compress(self.recipe, self.material, teacher.network, self.watching(console))
        self._keep("student", STUDENT_PARTS, trained.network)
        return trained

    def decoupled(self, console: Console) -> Decoupled:
        """The recipe's base network split into paths, fine-tuned; made or kept, its report in ``paths.json``.

        Raises:
            InputError: the recipe has no [decouple], or the network cannot be split.
        """
        before = STUDENT_PARTS if need_section(self.recipe).base == "student" else TEACHER_PARTS
        parts = (*before, "decouple")
        kept, report = self._kept("decoupled", parts), self.folder / "paths.json"
        if kept is not None and report.exists():
            return Decoupled(kept, json.loads(report.read_text()))
        base = self.base(console)
        console.stage("filters of each class")
        made = decouple_stage(self.recipe, self.material, base, self.watching(console))
        write_atomically(report, json.dumps(made.report, indent=1).encode())
        self._keep("decoupled", parts, made.network)
        return made

    def base(self, console: Console) -> nn.Module:
        """The network that the recipe's paths are cut from."""
        student = need_section(self.recipe).base == "student"
        return (self.student(console) if student else self.teacher(console)).network

    def bundle(self, target: Path, console: Console, runtimes: Sequence[str] = tuple(RUNTIMES)) -> Bundle:
        """The bundle, of the paths where the recipe has [decouple]; programs are always exported anew.

        Args:
            target: its folder.
            console: progress.
            runtimes: that it gets programs for.

        Raises:
            InputError: the recipe normalises each image by itself, which a bundle's programs do not.
        """
        self._check_normalisation()
        with Exporters(runtimes, console.exported) as exporters:
            teacher = self.teacher(console)
            network = (self.decoupled(console) if self.recipe.decouple else self.student(console)).network
            material = self.material
            request = request_of(self.recipe, material.cloud, decoupling_of(network))
            return build_bundle(
                network, teacher.network, request, material.cloud, material.held_back, target, exporters,
                console.stage,
            )  # fmt: skip

    def carried(self, classes: Sequence[str], target: Path, console: Console, runtimes: Sequence[str]) -> Bundle:
        """The bundle of a device that carries the paths of some classes; see ``carried_bundle``.

        Raises:
            InputError: fewer than two classes, or as for ``bundle``; before the work.
        """
        self._check_normalisation()
        if len(classes) < 2:
            raise InputError("a bundle of some classes' paths needs two or more: name them with --classes cat,dog")
        with Exporters(runtimes, console.exported) as exporters:
            network = self.decoupled(console).network
            return carried_bundle(self.recipe, self.material, network, classes, target, exporters, console.stage)

    def _check_normalisation(self) -> None:
        if self.recipe.data.per_image:
            raise InputError("a bundle normalises all images alike: set data.per_image = false in the recipe")

    def watching(self, console: Console) -> Watching:
        """Who is told about trainings, which are kept in the folder while they run."""
        return Watching(console.training, console.training_step, self.folder)

    def _digest(self, parts: tuple[str, ...]) -> str:
        content = asdict(self.recipe)
        facts: list[object] = [content[p] for p in parts]
        if self._given is not None:
            facts.append(digest(*self._given.state_dict().values()))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _kept(self, name: str, parts: tuple[str, ...]) -> nn.Module | None:
        mark, weights = self.folder / f"{name}.recipe", self.folder / f"{name}.safetensors"
        if mark.exists() and weights.exists() and mark.read_text() == self._digest(parts):
            return load_network(weights)
        return None

    def _keep(self, name: str, parts: tuple[str, ...], network: nn.Module) -> None:
        if int(os.environ.get("RANK", "0")):
            return
        mark = self.folder / f"{name}.recipe"
        mark.unlink(missing_ok=True)
        save_network(network, self.folder / f"{name}.safetensors")
        write_atomically(mark, self._digest(parts).encode())
        for unfinished in self.folder.glob("*.training"):
            unfinished.unlink()


def carried_bundle(
    recipe: Recipe, material: Material, network: nn.Module, classes: Sequence[str], target: Path,
    exporters: Exporters, on_stage: Callable[[str], None],
) -> Bundle:  # fmt: skip
    """A bundle of shared layers, some classes' paths and all spare ones, which its device fills and a fleet exchanges.

    Images are normalised as the whole network's are, so that a shared layer means the same in both, and parts are told
    apart by class name, so that a server with the whole bundle averages them with the others'.

    Args:
        recipe: of the whole network.
        material: its images.
        network: decoupled.
        classes: at least two of its classes, in the order of the new bundle's.
        target: the bundle's folder.
        exporters: started processes, one a runtime.
        on_stage: told what is being done.

    Raises:
        InputError: a class without a path, or a single one: its network tells it from all others.
    """
    part = specialise(network, classes, spare=need_decoupling(network).spare)
    cloud, held_back = material.cloud.select(classes), material.held_back.select(classes)
    mean, std = normalisation(material.cloud)
    request = replace(request_of(recipe, cloud, need_decoupling(part)), mean=mean, std=std)
    return build_bundle(part, part, request, cloud, held_back, target, exporters, on_stage)
