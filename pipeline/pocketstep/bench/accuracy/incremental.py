"""Classes that come one experience after another, learned by devices: one learner, or one a method, on a runtime."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketstep.bench.accuracy.stream import Course, experiences, per_class
from pocketstep_device import Learner
from pocketstep_device.samples import Samples
from pocketstep_device.shipped import REPLAY_FILE

Latents = npt.NDArray[np.int8]
Tell = Callable[[str], None]
UNBOUNDED = 4096.0


@dataclass(frozen=True)
class Encoded:
    """Latents of a data set, as the bundle's ``encode`` gives them: (N, h, w, c) int8, and labels (N,)."""

    latents: Latents
    labels: npt.NDArray[np.int64]

    def of(self, label: int) -> Latents:
        """One class."""
        own: Latents = self.latents[self.labels == label]
        return own


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: as people know it.
        schedule: of the bundle.
        bundle: the plan's variant.
        alone: trains the network, so that it needs a device of its own; closed forms share one and roll back.
        exemplars: is shown all images of an experience at once, as its paper has it, and keeps some of each class
            afterwards; else the store's limit holds while it learns, too.
        store_mb: most MiB of the device's stored latents; None for the run's own limit.
    """

    title: str
    schedule: str
    bundle: str = "centre"
    alone: bool = True
    exemplars: bool = False
    store_mb: float | None = None


METHODS: dict[str, Method] = {
    "nearest-mean": Method("nearest class mean", "nearest-mean", alone=False),
    "ridge": Method("recursive ridge", "ridge", alone=False),
    "linear": Method("streaming LDA", "linear", alone=False),
    "closed-form": Method("closed form, classes' own covariances", "closed-form", alone=False),
    "acil": Method("ACIL: ridge on random features", "ridge", "expanded"),
    "auto": Method("auto", "auto"),
    "auto-bare": Method("auto, no image kept", "auto", "bare", store_mb=0.1),
    "freezing": Method("weight freezing, replay", "replay", exemplars=True),
    "end-to-end": Method("the same, nothing frozen", "end-to-end", exemplars=True),
    "full": Method("all taps, replay", "end-to-end", "full", exemplars=True),
    "csko": Method("CsKO", "csko", "csko", exemplars=True),
    "selection": Method("CsKO: selection alone", "selection", "csko", exemplars=True),
    "projection": Method("CsKO: projection alone", "projection", "csko", exemplars=True),
    "soft-projection": Method("soft projection", "soft-projection", "csko", exemplars=True),
    "prototypes": Method("CsKO: prototypes alone", "prototypes", "csko", exemplars=True),
    "lwf": Method("LwF", "without-forgetting", exemplars=True),
    "fine-tune": Method("plain fine-tuning", "fine-tune", exemplars=True),
    "joint": Method("replay of all images", "end-to-end", store_mb=UNBOUNDED),
}


@dataclass
class Result:
    """What a method did: accuracies along the stream, seconds and bytes."""

    name: str
    title: str
    course: Course
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0


@dataclass
class Stage:
    """One run's stage: encoded images, how many classes are seen when, and where devices keep their states.

    ``per_class`` exemplars of a device's own classes are kept where a method keeps exemplars; as many as went along of
    the base's.
    """

    train: Encoded
    test: Encoded
    names: tuple[str, ...]
    seen: list[int]
    folder: Path
    runtime: str
    threads: int
    store_mb: float
    per_class: int

    def device(self, bundle: Path, name: str, store_mb: float, *, fresh: bool = False) -> Learner:
        """A device, with what it has learned; a ``fresh`` one has learned nothing yet."""
        state = self.folder / f"{name}.state"
        if fresh:
            shutil.rmtree(state, ignore_errors=True)
        return Learner.open(bundle, state, self.runtime, self.threads, store_mb)

    def accuracies(self, learner: Learner, known: int) -> npt.NDArray[np.float64]:
        """Per class, on the test images of the classes that are known."""
        rows = self.test.labels < known
        found = learner.classify_latents(self.test.latents[rows])
        slots = {name: slot for slot, name in enumerate(self.names)}
        return per_class(np.array([slots[n] for n in found.labels]), self.test.labels[rows], known)

    def observe(self, learner: Learner, classes: Iterable[int]) -> None:
        """Shows every training image of some classes."""
        for label in classes:
            learner.add_class(self.names[label])
            learner.observe_latents(self.train.of(label), self.names[label])


def closed_forms(stage: Stage, bundle: Path, methods: dict[str, Method], tell: Tell) -> list[Result]:
    """Methods that share their statistics: every one updates from the same state, is judged, and rolled back."""
    with stage.device(bundle, "closed-forms", stage.store_mb, fresh=True) as learner:
        base = stage.accuracies(learner, stage.seen[0])
        results = [Result(name, m.title, Course([base])) for name, m in methods.items()]
        for experience in experiences(stage.seen):
            stage.observe(learner, experience)
            for number, result in enumerate(results):
                if number:
                    learner.rollback()
                _update(learner, stage, methods[result.name].schedule, result)
                result.course.rows.append(stage.accuracies(learner, experience.stop))
                result.bytes = memory(learner)
                tell(f"{result.title}: {result.course.curve[-1]:.1%} of {experience.stop} classes")
    return results


def trained(stage: Stage, bundle: Path, name: str, method: Method, tell: Tell) -> Result:
    """A method that changes the network, on a device of its own."""
    limit = UNBOUNDED if method.exemplars else method.store_mb or stage.store_mb
    with stage.device(bundle, name, limit, fresh=True) as learner:
        result = Result(name, method.title, Course([stage.accuracies(learner, stage.seen[0])]))
    for experience in experiences(stage.seen):
        with stage.device(bundle, name, limit) as learner:
            stage.observe(learner, experience)
            _update(learner, stage, method.schedule, result)
            result.course.rows.append(stage.accuracies(learner, experience.stop))
            result.bytes = memory(learner)
            room = exemplars_mb(learner.samples, stage.per_class * (experience.stop - stage.seen[0]))
        if method.exemplars:
            with stage.device(bundle, name, room) as learner:
                learner.take(learner.samples.select(np.zeros(0, np.int64)), learner.classes)  # cuts the store
                result.bytes = memory(learner)
        tell(f"{method.title}: {result.course.curve[-1]:.1%} of {experience.stop} classes")
    return result


def exemplars_mb(samples: Samples, count: int) -> float:
    """The limit of a store, MiB, that keeps about so many when it is cut: to three quarters, a header in it."""
    each: int = samples.latents[0].nbytes + 10
    return (4096 + max(1, count) * each) / 0.75 / 2**20


def _update(learner: Learner, stage: Stage, schedule: str, result: Result) -> None:
    start = time.perf_counter()
    learner.update(method=schedule)
    result.seconds.append(time.perf_counter() - start)


def memory(learner: Learner) -> int:
    """Bytes of statistics and exemplars: the cloud's replay, stored latents, and what is added up.

    Not what lies on the disk until the next update so that this one can be taken back.
    """
    manifest = learner.manifest
    statistics = sum(4 * math.prod(s.shape) for s in manifest.state if s.kind == "statistics")
    return manifest.files[REPLAY_FILE].bytes + learner.samples.latents.nbytes + statistics
