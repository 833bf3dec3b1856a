"""Opens a learning bundle on a device: classifies, and learns new classes; numpy and one runtime.

    from pocketstep_device import Learner, Budget

    with Learner.open("mugs.bundle", state="state/") as learner:
        learner.add_class("blue mug")
        learner.observe(images, "blue mug")
        report = learner.update(Budget(seconds=60))

Names are loaded when first used, so that ``--help`` does not wait for numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketstep_device.adoption import Adoption, adopt
    from pocketstep_device.budget import Budget, Power
    from pocketstep_device.errors import (
        BundleError,
        CheckFailedError,
        InputError,
        MissingToolError,
        PocketstepError,
        StateError,
    )
    from pocketstep_device.learner import Learner, Prediction
    from pocketstep_device.reports import PhaseReport, Progress, UpdateReport

__version__ = "0.1.0"

__all__ = [
    "Adoption",
    "Budget",
    "BundleError",
    "CheckFailedError",
    "InputError",
    "Learner",
    "MissingToolError",
    "PhaseReport",
    "PocketstepError",
    "Power",
    "Prediction",
    "Progress",
    "StateError",
    "UpdateReport",
    "adopt",
]

_HOMES = {
    "Adoption": "adoption",
    "adopt": "adoption",
    "Budget": "budget",
    "Power": "budget",
    "Learner": "learner",
    "Prediction": "learner",
    "PhaseReport": "reports",
    "Progress": "reports",
    "UpdateReport": "reports",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pocketstep_device' has no attribute '{name}'")
    return getattr(import_module(f"pocketstep_device.{_HOMES.get(name, 'errors')}"), name)
