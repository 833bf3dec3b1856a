"""Pictures of the app's screens: drawn by a test on Robolectric, made small, and put beside the README."""

from __future__ import annotations

import shutil
from pathlib import Path

from androidlib import testing
from androidlib.paths import APP, BUILD, MISSING, ROOT, run, stop

DRAWN = BUILD / "screens"
DOCS = APP / "docs"
COLOURS = 96
KEPT = {
    "light-sees": "light",
    "dark-learned": "dark",
    "large-teach": "large-font",
    "german-knows": "german",
}
"""One screen for each variant, so that the four pictures tell the whole story."""


def draw(bundle: Path | None, python: Path | None) -> None:
    """Draws all screens into ``build/screens`` and the chosen ones, with fewer colours, into ``docs``."""
    interpreter = python or ROOT / ".venv" / "bin" / "python"
    if not interpreter.exists():
        stop(f"there is no {interpreter}; run scripts/test once, or give --python", MISSING)
    shutil.rmtree(DRAWN, ignore_errors=True)
    testing.run_tests(bundle, python, ["ScreensTest"], {"pocketstep.screens": DRAWN})
    DOCS.mkdir(exist_ok=True)
    for drawn, name in KEPT.items():
        target = DOCS / f"{name}.png"
        code = f"Image.open({str(DRAWN / drawn)!r} + '.png').convert('RGB').quantize({COLOURS}, dither=0)"
        run([interpreter, "-c", f"from PIL import Image; {code}.save({str(target)!r}, optimize=True)"])
        print(f"{target.relative_to(APP)}: {target.stat().st_size:,} bytes")
