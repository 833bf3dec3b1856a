"""Targets by name."""

from __future__ import annotations

import re

from pocketstep.validate.target import Target
from pocketstep_device.errors import InputError

KINDS = "host, emulator[:aarch64|armv7|riscv64|board], ssh://user@board[:port][/folder], adb[:SERIAL]"
_SSH = re.compile(
    r"ssh://(?P<host>(?:[\w.+-]+@)?(?:[\w.-]+|\[[0-9a-fA-F:]+\]))(?::(?P<port>\d{1,5}))?(?P<folder>/\S*)?"
)
_SERIAL = re.compile(r"[\w.:-]+")


def open_target(text: str) -> Target:
    """A target by its name; nothing is started or asked before the first job.

    Raises:
        InputError: it is none of ``KINDS``.
    """
    from pocketstep.validate import adb, host, ssh, userland

    kind, _, rest = text.partition(":")
    if text == "host":
        return host.HostTarget()
    if text == "emulator:board":
        return ssh.BoardTarget()
    if kind == "emulator":
        return userland.UserlandTarget(rest or "aarch64")
    if (found := _SSH.fullmatch(text)) is not None:
        port = int(found["port"]) if found["port"] else None
        return ssh.SshTarget(text, found["host"].replace("[", "").replace("]", ""), port, found["folder"] or "")
    if kind == "adb" and (not rest or _SERIAL.fullmatch(rest)) and text != "adb:":
        return adb.AdbTarget(rest)
    raise InputError(f"unknown target '{text}'; choose from {KINDS}")
