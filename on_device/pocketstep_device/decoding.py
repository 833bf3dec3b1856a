"""Strict JSON: from plain values to frozen dataclasses by their type hints, errors named by their path."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NoReturn, cast, get_args, get_origin, get_type_hints

from pocketstep_device.errors import BundleError

MAX_NAME = 200
_MAX_TEXT = 4096
_KINDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


def fail(path: str, problem: str) -> NoReturn:
    """Raises the BundleError that names a field and what is wrong with it."""
    raise BundleError(f"The manifest's {path or 'top level'} {problem}. Build the bundle again, or fetch it again.")


@cache
def _fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def decode(value: object, hint: Any, path: str) -> Any:
    """Turns a JSON value into what a type hint says, or fails with the path of what does not fit."""
    if dataclasses.is_dataclass(hint):
        return _decode_object(value, cast(type, hint), path)
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            fail(path, f"must be one of {', '.join(get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            fail(path, "must be a list")
        return tuple(decode(item, get_args(hint)[0], f"{path}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            fail(path, "must be an object")
        return {
            decode(key, str, f"{path} (a key)"): decode(item, get_args(hint)[1], join(path, key))
            for key, item in value.items()
        }
    if origin is types.UnionType:
        return _decode_union(value, get_args(hint), path)
    return _decode_scalar(value, hint, path)


def _decode_object(value: object, kind: type, path: str) -> Any:
    if not isinstance(value, dict):
        fail(path, "must be an object")
    hints = _fields(kind)
    optional = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    for name in hints:
        if name not in value and name not in optional:
            fail(join(path, name), "is missing")
    for name in value:
        if name not in hints:
            fail(join(path, name[:MAX_NAME]), "is unknown")
    given = {name: hint for name, hint in hints.items() if name in value}
    return kind(**{name: decode(value[name], hint, join(path, name)) for name, hint in given.items()})


def _decode_union(value: object, options: tuple[Any, ...], path: str) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:
        try:
            return decode(value, option, path)
        except BundleError:
            continue
    return fail(path, "has a type that does not belong there")


def _decode_scalar(value: object, kind: type, path: str) -> object:
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        fail(path, f"must be {_KINDS.get(kind, 'null')}")
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        fail(path, f"is longer than {_MAX_TEXT} characters")
    return value


def join(path: str, name: str) -> str:
    """The path of a field inside another."""
    return f"{path}.{name}" if path else name
