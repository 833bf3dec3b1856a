"""What a run is made of: the stream's images, the base, its bundles, and every image's latents; kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocketstep.assemble import build_bundle
from pocketstep.bench.accuracy.base import MEAN, STD, Beside, Teacher, base_network
from pocketstep.bench.accuracy.incremental import Encoded
from pocketstep.bench.accuracy.stream import first_classes, reordered
from pocketstep.compile.options import StepOptions
from pocketstep.data import Dataset
from pocketstep.export.run import Exporters
from pocketstep.networks import ResidualNet
from pocketstep.request import Request
from pocketstep.training import evaluate
from pocketstep_device import Learner

Tell = Callable[[str], None]
CUTS = {"late": "group3", "middle": "group2", "early": "group1"}
HELD_BACK = 0.02
"""Share of the base classes' images that no training sees."""
EXPANSION = 2048
VARIANTS: dict[str, Callable[[Request], Request]] = {
    "centre": lambda r: r,
    "full": lambda r: replace(r, preset="full"),
    "expanded": lambda r: replace(r, expansion=EXPANSION),
    "bare": lambda r: replace(r, replay_per_class=0),
    "csko": lambda r: replace(
        r, step=StepOptions(optimiser="adam", losses=("labels", "soft", "prototypes"), projection="matrix")
    ),
}


@dataclass(frozen=True)
class Settings:
    """What a table is measured with; see ``models/README.md``.

    Attributes:
        first: classes that the base knows.
        epochs: of the base.
        rotations: whether the base learns rotation labels.
        smoothing: of the base's labels where it does not.
        cut: after which block the frozen prefix ends: ``late``, ``middle`` or ``early``.
        replay_per_class: images of each base class that go along.
        seed: of class order, base and choice of images.
        network: of the base, see ``NETWORKS``.
        mirrored: whether mirror images are looked at, too.
        beside: other images that the base learns.
        teacher: of the base's features.
        batch: of the bundles' programs.
        small_first: whether the base sees smaller images first.
    """

    first: int = 50
    epochs: int = 16
    rotations: bool = False
    smoothing: float = 0.1
    cut: str = "late"
    replay_per_class: int = 20
    seed: int = 0
    network: str = "small"
    mirrored: bool = False
    beside: Beside | None = None
    teacher: Teacher | None = None
    batch: int = 64
    small_first: bool = False

    @property
    def kind(self) -> str:
        """What the base learns beside its classes, for a table's title."""
        prepared = ["rotation labels"] if self.rotations else []
        prepared += [f"beside {self.beside.name}"] if self.beside else []
        prepared += [f"features of {self.teacher.network}"] if self.teacher else []
        return ", ".join(prepared) or "plain"


@dataclass
class Material:
    """Images in the stream's order, and what is made of them."""

    train: Dataset
    test: Dataset
    settings: Settings
    folder: Path
    tell: Tell

    @classmethod
    def of(cls, train: Dataset, test: Dataset, settings: Settings, folder: Path, tell: Tell) -> Material:
        """The classes in the order of the settings' seed."""
        return cls(reordered(train, settings.seed), reordered(test, settings.seed), settings, folder, tell)

    @property
    def cloud(self) -> tuple[Dataset, Dataset]:
        """The base classes' images: what the cloud trains with, and what it holds back."""
        s = self.settings
        base = first_classes(self.train, s.first)
        rows = np.random.RandomState(s.seed).permutation(len(base))
        count = round(HELD_BACK * len(base))
        parts = (np.sort(rows[count:]), np.sort(rows[:count]))
        seen, held = (Dataset(base.images[r], base.labels[r], base.classes) for r in parts)
        return seen, held

    def base(self) -> ResidualNet:
        """The base network, trained when there is none yet."""
        s = self.settings
        seen, _ = self.cloud
        path = self.folder / f"base-{self._base_name}.safetensors"
        return base_network(
            seen, path, network=s.network, epochs=s.epochs, seed=s.seed, rotations=s.rotations,
            smoothing=s.smoothing, tell=self.tell, beside=s.beside, teacher=s.teacher, small_first=s.small_first,
        )  # fmt: skip

    def bundle(self, variant: str, runtime: str) -> Path:
        """The bundle of a plan's variant, built when there is none yet."""
        s = self.settings
        path = self.folder / f"{variant}-{self._settings_name}-{runtime}.bundle"
        if (path / "manifest.json").exists():
            return path
        self.tell(f"bundle '{variant}', cut after {CUTS[s.cut]}")
        seen, held = self.cloud
        request = Request(
            "cifar", seen.classes, (32, 32, 3), MEAN, STD, "centre", CUTS[s.cut], batch=s.batch,
            spare_classes=len(self.train.classes) - s.first, replay_per_class=s.replay_per_class, seed=s.seed,
            mirrored=s.mirrored,
        )  # fmt: skip
        request, base = VARIANTS[variant](request), self.base()
        judging = held if request.replay_per_class else None
        with Exporters([runtime]) as exporters:
            build_bundle(base, base, request, seen, judging, path, exporters, lambda stage: None)
        return path

    def encoded(self, data: Dataset, name: str, runtime: str, threads: int) -> Encoded:
        """Latents of a data set by the bundles' ``encode``, which is the same for every variant; kept in a file."""
        path = self.folder / f"latents-{name}-{self._settings_name}-{runtime}.npy"
        if path.exists() and len(latents := np.load(path, mmap_mode="r", allow_pickle=False)) == len(data):
            return Encoded(latents, data.labels)
        self.tell(f"latents of {len(data)} images ({name})")
        with Learner.open(self.bundle("bare", runtime), self.folder / "encoding.state", runtime, threads) as learner:
            latents = learner.encode(data.images)
        np.save(path, latents, allow_pickle=False)
        return Encoded(latents, data.labels)

    @property
    def _base_name(self) -> str:
        s = self.settings
        kind = "rotations" if s.rotations else f"smooth{s.smoothing}"
        beside = f"-{s.beside.name}-{s.beside.per_class}" if s.beside else ""
        teacher = f"-{s.teacher.network}-{s.teacher.epochs}" if s.teacher else ""
        sizes = "-small-first" if s.small_first else ""
        return f"{s.network}-{s.first}-{s.epochs}-{kind}{sizes}{beside}{teacher}-{s.seed}"

    @property
    def _settings_name(self) -> str:
        s = self.settings
        how = ("-mirrored" if s.mirrored else "") + (f"-batch{s.batch}" if s.batch != Settings.batch else "")
        return f"{s.cut}{how}-{s.replay_per_class}-{self._base_name}"


@torch.no_grad()
def penultimate(net: ResidualNet, data: Dataset, batch: int = 500) -> Tensor:
    """Features (N, D) that the head sees, by PyTorch."""
    seen: list[Tensor] = []
    hook = net.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    try:
        evaluate(net, data, MEAN, STD, batch=batch)
    finally:
        hook.remove()
    return torch.cat(seen)
