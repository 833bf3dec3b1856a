"""Verifies ed25519 signatures (RFC 8032, section 5.1) in plain Python.

A device checks one signature when it opens a bundle, with public numbers only: nothing here is secret, so it need not
take the same time for every input, and some milliseconds of Python's own integers do instead of a second dependency
on every board. Signing is the cloud's, with a library.

Stricter than the RFC demands: encodings must be canonical, and keys of small order, for which anybody can forge, are
refused.
"""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # a square root of -1
_SIGN = 1 << 255

_Point = tuple[int, int, int, int]  # extended coordinates: x = X/Z, y = Y/Z, X Y = T Z
_ZERO: _Point = (0, 1, 1, 0)


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature of a message is the key's.

    Args:
        key: the public key, 32 bytes.
        signature: 64 bytes.
        message: what was signed, of any length.
    """
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    commitment, scalar = signature[:32], int.from_bytes(signature[32:], "little")
    public = _decode(key)
    if scalar >= _ORDER or public is None or _is_small(public):
        return False
    challenge = int.from_bytes(hashlib.sha512(commitment + key + message).digest(), "little") % _ORDER
    x, y, z, t = public
    return _encode(_two_products(scalar, _BASE, challenge, (_P - x, y, z, _P - t))) == commitment


def is_usable_key(key: bytes) -> bool:
    """Whether these bytes are a public key that ``verify`` can accept anything of."""
    point = _decode(key) if len(key) == KEY_BYTES else None
    return point is not None and not _is_small(point)


def _decode(data: bytes) -> _Point | None:
    """A point from its 32 bytes (RFC 8032, 5.1.3); None where they are none, or not the canonical ones."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (_SIGN - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if x * x % _P != square:
        x = x * _ROOT % _P
    if x * x % _P != square or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _encode(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _add(a: _Point, b: _Point) -> _Point:
    """The sum of two points, equal or not (RFC 8032, 5.1.4)."""
    first = (a[1] - a[0]) * (b[1] - b[0]) % _P
    second = (a[1] + a[0]) * (b[1] + b[0]) % _P
    third, fourth = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = second - first, fourth - third, fourth + third, second + first
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(a: _Point) -> _Point:
    first, second = a[0] * a[0] % _P, a[1] * a[1] % _P
    h = first + second
    e, g = h - (a[0] + a[1]) ** 2, first - second
    f = 2 * a[2] * a[2] + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _two_products(m: int, a: _Point, n: int, b: _Point) -> _Point:
    """``m`` times ``a`` plus ``n`` times ``b``, bit by bit of both at once."""
    both, result = _add(a, b), _ZERO
    for bit in range(max(m.bit_length(), n.bit_length()) - 1, -1, -1):
        result = _double(result)
        if m >> bit & n >> bit & 1:
            result = _add(result, both)
        elif m >> bit & 1:
            result = _add(result, a)
        elif n >> bit & 1:
            result = _add(result, b)
    return result


def _is_small(point: _Point) -> bool:
    """Whether eight times the point is zero."""
    eight = _double(_double(_double(point)))
    return eight[0] == 0 and eight[1] == eight[2]


def _base() -> _Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert point is not None
    return point


_BASE = _base()
