"""Strict JSON: from plain values to frozen dataclasses by their type hints, errors named by their path."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NoReturn, cast, get_args, get_origin, get_type_hints

from pocketstep_device.errors import BundleError

MAX_NAME = 200
_MAX_TEXT = 4096
_MAX_NUMBER = sys.float_info.max  # not of NaN either; a whole number may be larger, and no float any more
_KINDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}


def fail(path: str, problem: str) -> NoReturn:
    """Raises the BundleError that names a field and what is wrong with it."""
    raise BundleError(f"The manifest's {path or 'top level'} {problem}. Build the bundle again, or fetch it again.")


Decoder = Callable[[object, str], Any]


def decode(value: object, hint: Any, path: str) -> Any:
    """Turns a JSON value into what a type hint says, or fails with the path of what does not fit."""
    return _decoder(hint)(value, path)


@cache
def _decoder(hint: Any) -> Decoder:
    """A hint's decoder, made once: a manifest has thousands of values and a dozen types."""
    if dataclasses.is_dataclass(hint):
        return _object(cast(type, hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _choice(arguments)
    if origin is tuple:
        return _list(_decoder(arguments[0]))
    if origin is Mapping:
        return _mapping(_decoder(str), _decoder(arguments[1]))
    if origin is types.UnionType:
        return _union(arguments)
    return _scalar(hint)


def _object(kind: type) -> Decoder:
    fields = {name: _decoder(hint) for name, hint in get_type_hints(kind).items()}
    optional = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}

    def read(value: object, path: str) -> Any:
        if not isinstance(value, dict):
            fail(path, "must be an object")
        if value.keys() != fields.keys():
            for name in fields:
                if name not in value and name not in optional:
                    fail(join(path, name), "is missing")
            for name in value:
                if name not in fields:
                    fail(join(path, name[:MAX_NAME]), "is unknown")
        start = f"{path}." if path else ""
        return kind(**{name: field(value[name], start + name) for name, field in fields.items() if name in value})

    return read


def _choice(options: tuple[Any, ...]) -> Decoder:
    def read(value: object, path: str) -> Any:
        if value not in options:
            fail(path, f"must be one of {', '.join(options)}")
        return value

    return read


def _list(item: Decoder) -> Decoder:
    def read(value: object, path: str) -> Any:
        if not isinstance(value, list):
            fail(path, "must be a list")
        return tuple([item(entry, f"{path}[{index}]") for index, entry in enumerate(value)])

    return read


def _mapping(key: Decoder, item: Decoder) -> Decoder:
    def read(value: object, path: str) -> Any:
        if not isinstance(value, dict):
            fail(path, "must be an object")
        return {key(name, f"{path} (a key)"): item(entry, join(path, name)) for name, entry in value.items()}

    return read


def _union(options: tuple[Any, ...]) -> Decoder:
    decoders = [_decoder(option) for option in options if option is not type(None)]

    def read(value: object, path: str) -> Any:
        if value is None and type(None) in options:
            return None
        for decoder in decoders:
            try:
                return decoder(value, path)
            except BundleError:
                continue
        return fail(path, "has a type that does not belong there")

    return read


def _scalar(kind: type) -> Decoder:
    def read(value: object, path: str) -> object:
        found = type(value)
        if found is not kind and not (kind is float and found is int):
            fail(path, f"must be {_KINDS.get(kind, 'null')}")
        if kind is float and not -_MAX_NUMBER <= value <= _MAX_NUMBER:  # type: ignore[operator]
            fail(path, f"must be {_KINDS[kind]}")
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            fail(path, f"is longer than {_MAX_TEXT} characters")
        return value

    return read


def join(path: str, name: str) -> str:
    """The path of a field inside another."""
    return f"{path}.{name}" if path else name
