"""One signature of a ``.tflite`` program alone.

TensorFlow Lite hands the operators of all signatures to XNNPACK as soon as one is used, and XNNPACK packs a copy of
every weight for every operator. A program whose other signatures have one operator costs what its own one needs.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import NamedTuple

_SUBGRAPHS, _SIGNATURES = 2, 7
"""Fields of the schema's ``Model``."""
_OPERATORS = 3
"""Field of ``SubGraph``."""
_KEY, _SUBGRAPH_INDEX = 2, 4
"""Fields of ``SignatureDef``."""

_LEAST = struct.pack("<I", 1)
"""Operators that other signatures keep: with none LiteRT takes XNNPACK away from all."""

Content = bytes | bytearray | mmap


class _Table(NamedTuple):
    """A table of a flatbuffer: where it begins."""

    content: Content
    start: int

    def field(self, number: int) -> int | None:
        """Where a field lies; None where it is left out."""
        vtable = self.start - _number(self.content, self.start, "<i")
        size = _number(self.content, vtable, "<H")
        place = 4 + 2 * number
        offset = _number(self.content, vtable + place, "<H") if place + 2 <= size else 0
        return self.start + offset if offset else None

    def vector(self, number: int) -> int | None:
        """Where a vector's length lies; its elements follow."""
        place = self.field(number)
        return None if place is None else place + _number(self.content, place)

    def tables(self, number: int) -> list[_Table]:
        """The tables of a vector of them."""
        start = self.vector(number)
        if start is None:
            return []
        places = range(start + 4, start + 4 + 4 * _number(self.content, start), 4)
        return [_Table(self.content, place + _number(self.content, place)) for place in places]


class Parts:
    """Where the signatures of a program lie.

    Args:
        content: of the ``.tflite`` file.

    Raises:
        ValueError: no readable program.
    """

    def __init__(self, content: Content):
        self._subgraphs: dict[str, int] = {}
        self._lengths: list[tuple[int, bytes] | None] = []
        try:
            model = _Table(content, _number(content, 0))
            for graph in model.tables(_SUBGRAPHS):
                start = graph.vector(_OPERATORS)
                self._lengths.append(None if start is None else (start, struct.pack("<I", _number(content, start))))
            for signature in model.tables(_SIGNATURES):
                place = signature.field(_SUBGRAPH_INDEX)
                self._subgraphs[_text(signature, _KEY)] = 0 if place is None else _number(content, place)
        except struct.error as error:
            raise ValueError(f"it is damaged ({error})") from error

    def keep_only(self, signature: str, content: bytearray | mmap) -> None:
        """Writes the number of operators of every part: one at most but for the signature's own.

        Raises:
            ValueError: no such signature.
        """
        if signature not in self._subgraphs:
            raise ValueError(f"it has no signature '{signature}'")
        for index, length in enumerate(self._lengths):
            if length is not None:
                start, own = length
                content[start : start + 4] = own if index == self._subgraphs[signature] or own == bytes(4) else _LEAST


def _number(content: Content, place: int, form: str = "<I") -> int:
    if place < 0:
        raise struct.error(f"an offset of {place}")
    value: int = struct.unpack_from(form, content, place)[0]
    return value


def _text(table: _Table, number: int) -> str:
    start = table.vector(number)
    if start is None:
        return ""
    return bytes(table.content[start + 4 : start + 4 + _number(table.content, start)]).decode(errors="replace")
