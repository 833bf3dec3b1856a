"""Strict reading and writing of the safetensors format with numpy alone.

A file is: the header's length (8 bytes, unsigned, little-endian); the header, a JSON object that maps every
tensor's name to its ``dtype``, ``shape`` and ``data_offsets``, and optionally ``__metadata__`` to an object
of strings; then the tensors' bytes, without gap or overlap. Nothing is believed before it was compared with
the file's real size, so a damaged or hostile file gives an error and never a huge allocation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketstep_device.errors import InputError

Array = npt.NDArray[Any]

MAX_HEADER = 4 * 2**20
"""Longest header that is read or written, in bytes: parsed, a hostile one takes some twenty times as much memory."""

_METADATA = "__metadata__"
_MAX_NAME = 512
_MAX_RANK = 32
_MAX_EMPTY = 2**31  # bound on the other sizes of a tensor without elements, which no file size bounds
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def parse_json(data: bytes | memoryview, what: str, error: type[InputError] = InputError) -> Any:
    """Parses JSON without its loopholes: UTF-8 only, no duplicate keys, NaN, infinity or lone surrogates.

    Args:
        data: The JSON text's bytes.
        what: What the bytes are, for the message.
        error: The class of error to raise.

    Raises:
        InputError: (or ``error``) if the bytes are not such JSON.
    """
    try:
        text = bytes(data).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique_object, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as reason:
        raise error(f"{what} is not valid JSON ({reason}): it was damaged. Fetch or make it again.") from reason
    return value


def read_tensors(
    data: bytes | memoryview,
    what: str,
    *,
    allow_nonfinite: bool = False,
    error: type[InputError] = InputError,
) -> tuple[dict[str, Array], dict[str, str]]:
    """Reads a safetensors file from memory.

    Args:
        data: The whole file. The arrays are views of it wherever its alignment allows, so it stays in memory
            as long as they do.
        what: What the file is, for messages: ``"replay.safetensors of mugs.bundle"``.
        allow_nonfinite: Whether float tensors may hold NaN or infinity.
        error: The class of error to raise.

    Returns:
        The tensors by name, read-only, in the order of their bytes; and the metadata.

    Raises:
        InputError: (or ``error``) if anything in the file is not exactly as the format demands.
    """
    reader = _Reader(what, error)
    header, body = reader.split(memoryview(data).cast("B"))
    metadata = reader.metadata(header.pop(_METADATA, {}))
    entries = sorted((reader.entry(name, value) for name, value in header.items()), key=lambda e: (e.begin, e.end))
    end = 0
    for entry in entries:
        if entry.begin != end:
            raise reader.fail(f"the bytes of tensor {entry.name!r} leave a gap or overlap another tensor's")
        end = entry.end
    if end != len(body):
        raise reader.fail(f"the tensors take {end} bytes, but {len(body)} follow the header")
    return {entry.name: reader.array(entry, body, allow_nonfinite) for entry in entries}, metadata


def write_tensors(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None, *, allow_nonfinite: bool = False
) -> bytes:
    """Writes tensors as the bytes of a safetensors file; equal arguments give equal bytes.

    Args:
        tensors: Arrays by name: float16/32/64, int8/32/64, uint8 or bool, of any shape.
        metadata: Texts kept in the header.
        allow_nonfinite: Whether float tensors may hold NaN or infinity.

    Raises:
        InputError: for a type, a name or a value that could not be read back.
    """
    arrays = {name: _writable(name, array, allow_nonfinite) for name, array in tensors.items()}
    header: dict[str, Any] = {}
    if metadata:
        header[_METADATA] = {key: metadata[key] for key in sorted(metadata)}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # wide first, so all are aligned
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        shape = list(arrays[name].shape)
        header[name] = {"dtype": _NAMES[arrays[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = _header_bytes(header)
    return b"".join([len(text).to_bytes(8, "little"), text, *(flat_bytes(arrays[name]) for name in order)])


def flat_bytes(array: Array) -> memoryview:
    """An array's bytes as they are kept: C order, little-endian; a view of it where it is already like that.

    Raises:
        InputError: for a type that is not kept.
    """
    return np.ascontiguousarray(_little_endian(array)).reshape(-1).view(np.uint8).data


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class _Reader:
    """The checks of one file, and how its errors begin."""

    what: str
    error: type[InputError]

    def fail(self, problem: str) -> InputError:
        return self.error(f"{self.what} can't be read: {problem}. It was cut or damaged; fetch or make it again.")

    def split(self, view: memoryview) -> tuple[dict[str, Any], memoryview]:
        if len(view) < 8:
            raise self.fail(f"it has {len(view)} bytes, fewer than the 8 of a safetensors file's beginning")
        length = int.from_bytes(view[:8], "little")
        if length > MAX_HEADER or length > len(view) - 8:
            raise self.fail(f"its header claims {length} bytes, but {len(view) - 8} follow, and {MAX_HEADER} may be")
        if view[8:9].tobytes() != b"{":
            raise self.fail("its header does not begin with '{'")
        header = parse_json(view[8 : 8 + length], f"the header of {self.what}", self.error)
        return header, view[8 + length :]  # what begins with '{' and is JSON is an object

    def metadata(self, value: object) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise self.fail("its metadata is not an object of texts")
        return value

    def entry(self, name: str, value: object) -> _Entry:
        if len(name) > _MAX_NAME:
            raise self.fail(f"a tensor's name is longer than {_MAX_NAME} characters")
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise self.fail(f"tensor {name!r} is not described by dtype, shape and data_offsets")
        kind = value["dtype"]
        dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
        if dtype is None:
            raise self.fail(f"tensor {name!r} has a type other than {', '.join(_DTYPES)}")
        shape, offsets = value["shape"], value["data_offsets"]
        if not _is_sizes(shape) or len(shape) > _MAX_RANK or not _is_sizes(offsets) or len(offsets) != 2:
            raise self.fail(f"tensor {name!r} has a shape or data_offsets that are not sizes")
        begin, end = offsets
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise self.fail(f"tensor {name!r} has {end - begin} bytes, which its shape and type contradict")
        if math.prod(max(size, 1) for size in shape) * dtype.itemsize > max(end - begin, _MAX_EMPTY):
            raise self.fail(f"tensor {name!r} is empty, but one of its sizes is too large")
        return _Entry(name, dtype, tuple(shape), begin, end)

    def array(self, entry: _Entry, body: memoryview, allow_nonfinite: bool) -> Array:
        if entry.begin == entry.end:
            array: Array = np.empty(entry.shape, entry.dtype)
        else:
            raw = np.frombuffer(body[entry.begin : entry.end], np.uint8)
            if entry.dtype.kind == "b" and raw.max() > 1:
                raise self.fail(f"tensor {entry.name!r} is BOOL but has bytes other than 0 and 1")
            array = raw.view(entry.dtype).reshape(entry.shape)
        if not array.flags.aligned:
            array = array.copy()
        if not allow_nonfinite and not _is_finite(array):
            raise self.fail(f"tensor {entry.name!r} holds NaN or infinity")
        array.flags.writeable = False
        return array


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _writable(name: str, array: Array, allow_nonfinite: bool) -> Array:
    if name == _METADATA or len(name) > _MAX_NAME:
        raise InputError(f"A tensor can't be named {name[:40]!r}: it is reserved or too long. Choose another name.")
    if not allow_nonfinite and not _is_finite(array):
        raise InputError(f"Tensor {name!r} holds NaN or infinity: training diverged. Try a lower learning rate.")
    return _little_endian(array)


def _little_endian(array: Array) -> Array:
    little = array.dtype.newbyteorder("<")
    if little not in _NAMES:
        raise InputError(f"A tensor of {array.dtype} can't be kept; convert it to float32, int64 or int8.")
    return array.astype(little, copy=False)


def _header_bytes(header: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except ValueError as reason:
        raise InputError(f"A tensor's name or metadata is not valid Unicode ({reason}); rename it.") from reason
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InputError(f"The header has {len(text)} bytes, more than {MAX_HEADER}; shorten names and metadata.")
    return text
