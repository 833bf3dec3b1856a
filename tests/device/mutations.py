"""Mutations that know the structure of what they change: JSON trees, safetensors files, zips, plain bytes."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**400,
    0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "a", "x" * 5000, "../../etc/passwd", "/etc/passwd",
    "a/../b", "C:\\x", ".", "..", "manifest.json", "MANIFEST.JSON", "manifest.sha256", "signature.ed25519",
    "state.safetensors", "\0", "\ud800", "\u202e", "float32", "int8", "F32", "F64", "I8", "BOOL", "state",
    "batch", "head", "train", "solve", [], {}, [[]], [0], [-1], [1, 1, 1, 1, 1, 1], [2**31, 2**31], [0] * 3000,
    {"": ""}, {"kind": "train"}, {"kind": "solve"},
]  # fmt: skip
"""What honest writers don't write."""


def hostile(chance: random.Random) -> Any:
    """One of them, its own copy: later mutations change it."""
    return copy.deepcopy(chance.choice(HOSTILE))


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def mutate_json(tree: Any, chance: random.Random) -> Any:
    """Changes one place of a tree of lists and dictionaries, in place; gives the tree, or what replaces it."""
    places = _places(tree)
    if not places:
        return hostile(chance)
    parent, key = chance.choice(places)
    value = parent[key]
    action = chance.randrange(8)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[chance.choice(["", "x", "__metadata__", str(key) + "x", "bytes", "name"])] = parent.pop(key)
    elif action == 2:
        other, place = chance.choice(places)
        with contextlib.suppress(RecursionError):  # of one that is nested too deep already
            parent[key] = copy.deepcopy(other[place])  # of a parent, it would be a circle
    elif action == 3 and isinstance(value, int | float) and not isinstance(value, bool):
        more = value + 0.5 if abs(value) < 2**53 else value  # a float where it can be one
        parent[key] = chance.choice([value + 1, value - 1, -value, value * 2, value * 10**6, more, str(value)])
    elif action == 4 and isinstance(value, list):
        parent[key] = chance.choice([value * 2, value[::-1], value[:-1], [*value, hostile(chance)]])
    elif action == 5 and chance.random() < 0.05:
        parent[key] = nested(chance.choice([10, 500, 3000]))
    else:
        parent[key] = hostile(chance)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            found += [(node, key) for key in node]
            stack += [child for child in node.values() if isinstance(child, dict | list)]
        elif isinstance(node, list):
            found += [(node, index) for index in range(len(node))]
            stack += [child for child in node if isinstance(child, dict | list)]
    return found


def json_bytes(tree: Any, chance: random.Random) -> bytes:
    """As text; seldom with a key twice, cut, or with bytes that are no UTF-8."""
    try:
        data = json.dumps(tree).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        data = b"[" * 5000
    trick = chance.randrange(40)
    if trick == 0 and data.startswith(b"{") and b"," in data:
        first = data[1 : data.index(b",")]
        return b"{" + first + b"," + data[1:]
    if trick == 1:
        return data[: chance.randrange(len(data) + 1)]
    if trick == 2:
        return data.replace(b'"', b'"\xff', 1)
    if trick == 3:
        return b"\xef\xbb\xbf" + data
    return data


def mutate_tensors(data: bytes, chance: random.Random) -> bytes:
    """Changes a safetensors file: its header's tree, its length, its tensors' numbers."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    action = chance.randrange(6)
    if action <= 2:
        for _ in range(chance.choice([1, 1, 2])):
            header = mutate_json(header, chance)
    elif action == 3 and len(body) >= 4:
        place = chance.randrange(len(body) // 4) * 4
        pattern = chance.choice(
            [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff" * 4, b"\0\0\0\x80", b"\1\1\1\1"]
        )
        body[place : place + 4] = pattern
    elif action == 4:
        body = chance.choice([body[:-1], body + b"\0", body[::-1], body * 2, bytearray()])
    text = json_bytes(header, chance)
    claimed = len(text)
    if action == 5:
        claimed = chance.choice([0, 1, max(claimed - 1, 0), claimed + 1, 2**24, 2**32, 2**63, 2**64 - 1])
    return claimed.to_bytes(8, "little") + text + bytes(body)


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Changes, drops, doubles or inserts some bytes anywhere."""
    result = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(result) + 1)
        action = chance.randrange(4)
        if action == 0 and place < len(result):
            result[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            result[place:place] = chance.randbytes(chance.choice([1, 4, 64]))
        elif action == 2:
            del result[place : place + chance.choice([1, 4, 64, len(result)])]
        else:
            result[place:place] = result[place : place + 64]
    return bytes(result)


_LOCAL = ("<4s5H3L2H", b"PK\3\4")
_CENTRAL = ("<4s6H3L5H2L", b"PK\1\2")
_END = ("<4s4H2LH", b"PK\5\6")
_NUMBERS = (0, 1, 2, 8, 0xFF, 0xFFFF, 0xFFFE, 2**31, 2**32 - 1, 100, 46, 30)


def mutate_zip(data: bytes, chance: random.Random) -> bytes:
    """Changes one field of one record of a zip, copies records, or plain bytes."""
    action = chance.randrange(6)
    if action == 0:
        return mutate_bytes(data, chance)
    if action == 1:
        return data + chance.choice([b"\0", b"PK", data[-22:], data])
    result = bytearray(data)
    layout, mark = chance.choice([_LOCAL, _CENTRAL, _CENTRAL, _END])
    place = _find(data, mark, chance)
    fields = list(struct.unpack_from(layout, data, place))
    index = chance.randrange(1, len(fields))
    size = {"H": 2, "L": 4}[_letters(layout)[index]]
    other = struct.unpack_from(layout, data, _find(data, mark, chance))[index]
    fields[index] = chance.choice([*_NUMBERS, other, fields[index] + 1, len(data)]) % 2 ** (8 * size)
    struct.pack_into(layout, result, place, *fields)
    if action == 2:  # and another name of the same length
        name = place + struct.calcsize(layout)
        new = chance.choice([b"../", b"/et", b"C:\\", b"a\0b", b"\xff\xfe\xfd", b"MAN"])
        result[name : name + len(new)] = new
    return bytes(result)


def _letters(layout: str) -> list[str]:
    letters: list[str] = []
    count = ""
    for char in layout[1:]:
        if char.isdigit():
            count += char
            continue
        letters += [char] * (1 if char == "s" else int(count or 1))
        count = ""
    return letters


def _find(data: bytes, mark: bytes, chance: random.Random) -> int:
    found, start = [], data.find(mark)
    while start >= 0:
        found.append(start)
        start = data.find(mark, start + 1)
    return chance.choice(found)


Mutator = Callable[[bytes, random.Random], bytes]
