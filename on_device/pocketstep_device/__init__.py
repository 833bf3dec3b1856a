"""Opens a learning bundle on a device: classifies, and learns new classes; numpy and one runtime.

    from pocketstep_device import Learner, Budget

    with Learner.open("mugs.bundle", state="state/") as learner:
        learner.add_class("blue mug")
        learner.observe(images, "blue mug")
        report = learner.update(Budget(seconds=60))
"""

from pocketstep_device.budget import Budget
from pocketstep_device.errors import (
    BundleError,
    CheckFailedError,
    InputError,
    MissingToolError,
    PocketstepError,
    StateError,
)
from pocketstep_device.learner import Learner, Prediction
from pocketstep_device.update import PhaseReport, Progress, UpdateReport

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "BundleError",
    "CheckFailedError",
    "InputError",
    "Learner",
    "MissingToolError",
    "PhaseReport",
    "PocketstepError",
    "Prediction",
    "Progress",
    "StateError",
    "UpdateReport",
]
