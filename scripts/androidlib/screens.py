"""Pictures of the app's screens: drawn by a test on Robolectric, made small, and put beside the README."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

from androidlib import testing
from androidlib.paths import APP, BUILD

DRAWN = BUILD / "screens"
DOCS = APP / "docs"
KEPT = {
    "light-sees": "light",
    "dark-learned": "dark",
    "large-teach": "large-font",
    "german-knows": "german",
}
"""One screen for each variant, so that the four pictures tell the whole story."""


def draw(bundle: Path | None, python: Path | None) -> None:
    """Draws all screens into ``build/screens`` and the chosen ones into ``docs``."""
    shutil.rmtree(DRAWN, ignore_errors=True)
    testing.test(bundle, python, ["ScreensTest"], {"pocketstep.screens": DRAWN})
    DOCS.mkdir(exist_ok=True)
    for drawn, name in KEPT.items():
        target = DOCS / f"{name}.png"
        target.write_bytes(smaller((DRAWN / f"{drawn}.png").read_bytes()))
        print(f"{target.relative_to(APP)}: {target.stat().st_size:,} bytes")


def smaller(png: bytes) -> bytes:
    """The same picture packed as well as zlib can."""
    out, place, pixels, header = [png[:8]], 8, b"", b""
    while place < len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        body = png[place + 8 : place + 8 + size]
        place += 12 + size
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            pixels += body
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(zlib.decompress(pixels), 9), b"IEND": b""}
    out += [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    ]
    return b"".join(out)
