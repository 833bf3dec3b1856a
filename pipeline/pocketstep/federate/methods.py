"""Which parts a device shares with the server, by method."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pocketstep_device.errors import InputError
from pocketstep_device.exchange import class_of

METHODS = ("critical-paths", "fedavg", "fedper", "fedrep", "lg-fedavg")


def check_method(method: str) -> None:
    """Raises InputError for a name that is none of ``METHODS``."""
    if method not in METHODS:
        raise InputError(f"there is no method '{method}' for a fleet: choose one of {', '.join(METHODS)}")


def shared(method: str, parts: Iterable[str], own_classes: Collection[str]) -> list[str]:
    """Names of the parts that go to the server, and come from it.

    ``critical-paths`` (TeAM §3.1): the paths of the classes that a device has images of, and the head's rows of these.
    ``fedavg`` (McMahan 2017): all trained parts. ``fedper`` (Arivazhagan 2019) and ``fedrep`` (Collins 2021): the body;
    every device keeps its own head. ``lg-fedavg`` (Liang 2020): the head; every device keeps its own body.

    Args:
        method: one of ``METHODS``.
        parts: all names.
        own_classes: classes that the device has images of.

    Raises:
        InputError: an unknown method.
    """
    check_method(method)
    names = list(parts)
    if method == "fedavg":
        return names
    if method == "critical-paths":
        return [name for name in names if not class_of(name) or class_of(name) in own_classes]
    heads = [name for name in names if name.startswith("head.")]
    return heads if method == "lg-fedavg" else [name for name in names if name not in set(heads)]


def local_schedule(method: str, known: Collection[str]) -> str:
    """The manifest's schedule that a device runs in a round.

    FedRep's trains the head first, then the body; TeAM's only the paths that the device sends (its other paths would
    change beside them and be lost), where the bundle has paths.

    Args:
        method: one of ``METHODS``.
        known: the manifest's schedules.

    Raises:
        InputError: an unknown method.
    """
    check_method(method)
    wanted = {"fedrep": "enhance-in-turns", "critical-paths": "enhance-own"}.get(method, "enhance")
    return wanted if wanted in known else "enhance"
