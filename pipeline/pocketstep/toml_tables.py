"""TOML files whose tables are dataclasses, read strictly: what is missing, unknown or mistyped is named."""

from __future__ import annotations

import dataclasses
import sys
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from pocketstep_device.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read(path: str | Path, example: str) -> tuple[Path, dict[str, Any]]:
    """A TOML file, or one that comes with pocketstep by its name, and where it lies.

    Args:
        path: of the file, ending with ``.toml``, or the name.
        example: a name for the error's text.

    Raises:
        InputError: there is none, or it is no TOML.
    """
    file = Path(path) if Path(path).suffix == ".toml" else _bundled(str(path))
    try:
        return file, parse_text(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe {path}; give a .toml file, or '{example}'") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no readable TOML file: {error}") from None


def parse_text(text: str) -> dict[str, Any]:
    """TOML as a dictionary; ``ValueError`` where it is none."""
    return tomllib.loads(text)


def _bundled(name: str) -> Path:
    inside = Path(str(resources.files("pocketstep"))) / "models" / f"{name}.toml"
    return inside if inside.exists() else Path(__file__).parents[2] / "models" / f"{name}.toml"


def parse(kind: type[T], values: Any, where: str) -> T:
    """A table as a dataclass whose fields are its keys; names what is missing, unknown or mistyped."""
    fields = dataclasses.fields(kind)
    hints, names = get_type_hints(kind), {f.name for f in fields}
    needed = {f.name for f in fields if f.default is dataclasses.MISSING}
    if not isinstance(values, dict):
        raise InputError(f"the recipe's '{where or 'top level'}' must be a table")
    unknown, missing = sorted(set(values) - names), sorted(needed - set(values))
    if unknown or missing:
        problem = f"unknown key '{unknown[0]}'" if unknown else f"missing key '{missing[0]}'"
        raise InputError(f"the recipe has an {problem} in [{where or 'top level'}]".replace("an missing", "a missing"))
    parsed = {name: _convert(hints[name], values[name], f"{where}.{name}".strip(".")) for name in values}
    return kind(**parsed)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, UnionType):  # an optional section
        kind = next(option for option in kind.__args__ if option is not NoneType)
    if dataclasses.is_dataclass(kind):
        return parse(cast(type[Any], kind), value, where)
    if kind in (str, bool, int) and type(value) is kind:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if getattr(kind, "__origin__", None) is tuple and isinstance(value, list):
        return tuple(_convert(kind.__args__[0], item, where) for item in value)
    raise InputError(f"the recipe's {where} is {value!r}; it must be {getattr(kind, '__name__', kind)}")
