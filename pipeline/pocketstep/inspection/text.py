"""How figures and foreign names are written, in the terminal and on pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

SPACE = "\u00a0"


def scaled(value: float, base: int, units: Sequence[str]) -> str:
    """Three digits and a unit, e.g. 1.25 MiB."""
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    digits = 0 if power == 0 else max(0, 2 - int(math.log10(max(value, 1))))
    return f"{value:.{digits}f}{SPACE}{units[power]}".rstrip()


def size(value: float) -> str:
    """Bytes."""
    return scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count(value: float) -> str:
    """A number of things."""
    return scaled(value, 1000, ("", "k", "M", "G", "T"))


def shape(sizes: Sequence[int]) -> str:
    """16×16×3×3."""
    return "×".join(str(size) for size in sizes) or "1"


def plural(number: int, word: str) -> str:
    """1 class, 2 classes."""
    end = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number} {word}{end}"


def plain(value: object) -> str:
    """A number without needless digits, anything else as it is: 0.005, 1, yes, all."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return ", ".join(plain(item) for item in value)
    return str(value)


def clean(text: str) -> str:
    """A foreign name for a terminal: what would steer it (escape sequences) becomes a mark."""
    return "".join(char if char.isprintable() or char == SPACE else "\ufffd" for char in text)
