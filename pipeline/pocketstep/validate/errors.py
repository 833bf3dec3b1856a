"""What keeps a target from answering: its kind, for reports, and a sentence, for people."""

from __future__ import annotations

from pocketstep_device.errors import MissingToolError


class TargetError(MissingToolError):
    """A target could not be asked (exit code 3); nothing is said about the bundle.

    Attributes:
        kind: ``missing tool``, ``unreachable``, ``timeout``, ``disk full``, ``died`` or ``setup``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
