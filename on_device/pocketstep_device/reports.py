"""What an update says of itself: while it runs, of each phase, and at the end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where an update is: phase, step of how many, and the last loss (NaN where a phase has none)."""

    phase: str
    step: int
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class PhaseReport:
    """What one phase did, and how its candidate did on held-back samples (accuracies 0 to 1, NaN without samples)."""

    phase: str
    steps: int
    loss: float
    seconds: float
    old_accuracy: float
    new_accuracy: float


@dataclass(frozen=True)
class UpdateReport:
    """The outcome of an update; accuracies are means per class on held-back samples, 0 to 1.

    Attributes:
        accepted: whether the device changed; when False, everything is as it was.
        chosen: the phase whose state was taken, empty when none.
        reason: one sentence.
        old_before: accuracy on what was known, before the update.
        old_accuracy, new_accuracy: after it.
        peak_memory_mb: resident memory above where the update began, MiB.
        stopped: what ended the training steps early: ``time``, ``battery``, or empty.
    """

    accepted: bool
    method: str
    chosen: str
    reason: str
    old_before: float
    old_accuracy: float
    new_accuracy: float
    seconds: float
    peak_memory_mb: float
    phases: tuple[PhaseReport, ...]
    stopped: str = ""
