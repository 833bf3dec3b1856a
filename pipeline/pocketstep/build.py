"""``pocketstep build``: stages that are kept, so that a build resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pocketstep.assemble import build_bundle, request_of
from pocketstep.console import Console
from pocketstep.export import RUNTIMES
from pocketstep.export.run import Exporters
from pocketstep.networks import ResidualNet, load_network, save_network
from pocketstep.recipe import load_recipe
from pocketstep.stages import Trained, compress, judge, load_material, train_teacher
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError
from pocketstep_device.storage import write_atomically

TEACHER_PARTS = ("data", "teacher")
STUDENT_PARTS = (*TEACHER_PARTS, "compress", "transfer")


class Workshop:
    """A recipe and the folder of its finished stages; a stage is redone when its part of the recipe changed.

    Args:
        recipe: a file or a name.
        folder: made when missing.
    """

    def __init__(self, recipe: str, folder: Path):
        self.recipe = load_recipe(recipe)
        self.material = load_material(self.recipe)
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error}; give another folder") from None

    def teacher(self, console: Console) -> Trained:
        """The teacher, trained or kept."""
        kept = self._kept("teacher", TEACHER_PARTS)
        if kept:
            return judge(kept, self.material)
        trained = train_teacher(self.recipe, self.material, console.training)
        self._keep("teacher", TEACHER_PARTS, trained.network)
        return trained

    def student(self, console: Console) -> Trained:
        """The compressed student, trained or kept."""
        kept = self._kept("student", STUDENT_PARTS)
        if kept:
            return judge(kept, self.material)
        teacher = self.teacher(console)
        trained = compress(self.recipe, self.material, teacher.network, console.training)
        self._keep("student", STUDENT_PARTS, trained.network)
        return trained

    def bundle(self, target: Path, console: Console) -> Bundle:
        """The bundle; programs are always exported anew."""
        with Exporters(list(RUNTIMES), console.exported) as exporters:
            teacher, student = self.teacher(console), self.student(console)
            material = self.material
            request = request_of(self.recipe, material.cloud)
            return build_bundle(
                student.network, teacher.network, request, material.cloud, material.held_back, target, exporters,
                console.stage,
            )  # fmt: skip

    def _digest(self, parts: tuple[str, ...]) -> str:
        content = asdict(self.recipe)
        return hashlib.sha256(json.dumps([content[p] for p in parts]).encode()).hexdigest()

    def _kept(self, name: str, parts: tuple[str, ...]) -> ResidualNet | None:
        mark, weights = self.folder / f"{name}.recipe", self.folder / f"{name}.safetensors"
        if mark.exists() and weights.exists() and mark.read_text() == self._digest(parts):
            return load_network(weights)
        return None

    def _keep(self, name: str, parts: tuple[str, ...], network: ResidualNet) -> None:
        mark = self.folder / f"{name}.recipe"
        mark.unlink(missing_ok=True)
        save_network(network, self.folder / f"{name}.safetensors")
        write_atomically(mark, self._digest(parts).encode())
