"""Outcomes as one HTML page without scripts; it opens offline, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from pocketstep.validate import tables
from pocketstep.validate.outcome import Outcome
from pocketstep.validate.target_report import worst_of


def write_page(outcomes: Sequence[Outcome], regressions: Sequence[str], tolerance: float, path: Path) -> None:
    """Writes the page.

    Args:
        outcomes: of a run; all that targets said is escaped.
        regressions: sentences about what grew.
        tolerance: largest relative error that passed.
        path: of the page; its folder is made, an older page is replaced.
    """
    loaders = [jinja2.PackageLoader("pocketstep.validate"), jinja2.PackageLoader("pocketstep.inspection")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters.update(error=tables.error_text, learned=tables.learned, device=tables.device_text)
    environment.globals.update(worst_of=worst_of, marks=tables.MARKS)
    counts = {status: sum(o.status == status for o in outcomes) for status in tables.MARKS}
    page = environment.get_template("validate.html.j2").render(
        outcomes=outcomes, regressions=regressions, tolerance=tolerance, counts=counts,
        bundles=list(dict.fromkeys(o.bundle for o in outcomes)),
        largest=max((o.worst for o in outcomes if o.worst is not None), default=None),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
