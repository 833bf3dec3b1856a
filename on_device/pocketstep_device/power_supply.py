"""The battery of a Linux board, from what its kernel says."""

from __future__ import annotations

from pathlib import Path

from pocketstep_device.budget import Power
from pocketstep_device.errors import MissingToolError

_FOLDER = Path("/sys/class/power_supply")


def read_power(folder: Path = _FOLDER) -> Power:
    """Level and charging of the first battery, for ``Budget(power=read_power)``.

    Raises:
        MissingToolError: the system knows of no battery.
    """
    for supply in sorted(folder.glob("*")):
        if _text(supply / "type") == "Battery" and _text(supply / "capacity").isdigit():
            status = _text(supply / "status")
            return Power(int(_text(supply / "capacity")) / 100, status in ("Charging", "Full", "Not charging"))
    raise MissingToolError(f"no battery is to be found in {folder}; leave --min-battery out")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
