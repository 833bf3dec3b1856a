"""What people see while they wait: one rich status line, and tables at the end."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.console

    from pocketstep.history import Progress
    from pocketstep_device.bundle import Bundle


class Console:
    """Progress on stderr, so that stdout stays for results; silent with ``quiet``."""

    def __init__(self, quiet: bool = False):
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._rich: rich.console.Console = RichConsole(stderr=True, quiet=quiet)
        self._bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._rich, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None, left="")
        self._start, self._stage = time.monotonic(), ""

    def __enter__(self) -> Console:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """A new stage without a known length."""
        self._line(text)
        self._bar.reset(self._task, description=text, total=None, left="")

    def training(self, progress: Progress) -> None:
        """An epoch is done."""
        self.training_step(progress)
        if progress.epoch == progress.epochs:
            self._line(_training_line(progress))

    def training_step(self, progress: Progress) -> None:
        """A training goes on."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._bar.reset(self._task)
        left = "" if progress.seconds_left is None else f"{_clock(progress.seconds_left)} left"
        text = _training_line(progress)
        if progress.epochs > 1:
            text = text.replace(":", f" {progress.epoch}/{progress.epochs}:", 1)
        self._bar.update(self._task, description=text, completed=progress.step, total=progress.steps, left=left)

    def exported(self, runtime: str, seconds: float) -> None:
        """A program file is done."""
        self._line(f"exported to {runtime} in {seconds:.0f} s")

    def _line(self, text: str) -> None:
        self._rich.print(f"[dim]{time.monotonic() - self._start:6.1f} s[/dim]  {text}", highlight=False)


def _training_line(progress: Progress) -> str:
    watched = "" if progress.watched is None else f", {progress.watched:.1%} on other images"
    return f"{progress.stage}: loss {progress.loss:.3f}, accuracy {progress.accuracy:.1%}{watched}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def results_table(results: dict[str, Any]) -> Any:
    """The demo's outcome as a rich table, a row a method, columns of every runtime."""
    from rich.table import Table

    table = Table(title=f"learning '{results['new_class']}' from {results['observed']} images", title_justify="left")
    for name in ("runtime", "method", "old classes", "new class", "per class", "forgotten", "seconds", "MiB"):
        table.add_column(name, justify="left" if name in ("runtime", "method") else "right")
    for runtime, result in results["runtimes"].items():
        before = result["act1"]["before"]
        table.add_row(runtime, "before", _percent(before["old"]), _percent(before["new"]), _percent(before["mean"]))
        for row in result["act1"]["rows"]:
            table.add_row(
                runtime, _title(row), *(_percent(row[key]) for key in ("old", "new", "mean", "forgetting")),
                f"{row['seconds']:.2f}", f"{row['peak_memory_mb']:.0f}",
            )  # fmt: skip
    return table


def camera_table(results: dict[str, Any]) -> Any:
    """The second act as a rich table."""
    from rich.table import Table

    first = next(iter(results["runtimes"].values()))["act2"]
    title = f"the same device under another camera ('{first['camera']}'), {first['images_per_class']} images a class"
    table = Table(title=title, title_justify="left")
    for name in ("runtime", "method", "other camera", "original camera", "seconds"):
        table.add_column(name, justify="left" if name in ("runtime", "method") else "right")
    for runtime, result in results["runtimes"].items():
        before = result["act2"]["before"]
        table.add_row(runtime, "before", _percent(before["shifted"]), _percent(before["original"]))
        for row in result["act2"]["rows"]:
            shifted, original = _percent(row["shifted"]), _percent(row["original"])
            table.add_row(runtime, _title(row), shifted, original, f"{row['seconds']:.2f}")
    return table


def _title(row: dict[str, Any]) -> str:
    return f"auto: {row['chosen'] or 'rolled back'}" if row["method"] == "auto" else str(row["title"])


def _percent(value: float) -> str:
    return f"{value:.1%}"


def export_summary(bundle: Bundle, *, as_json: bool, replayed: bool) -> None:
    """What an export gave: sizes, plan, runtimes; and what is missing where no pictures were given."""
    manifest = bundle.manifest
    files = {name: entry.bytes for name, entry in manifest.files.items()}
    if as_json:
        facts = {"bundle": str(bundle.path), "files": files, "cost": dict(manifest.cost), "cut": manifest.plan.cut}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    roles = Counter(p.role for p in manifest.plan.parameters if p.trained)
    trained = ", ".join(f"{count} {role}" for role, count in sorted(roles.items()))
    sys.stdout.write(
        f"{bundle.path}: {sum(files.values()) / 2**20:.1f} MiB, {', '.join(manifest.runtimes)}; latent after "
        f"'{manifest.plan.cut}', trained tensors: {trained}\n"
    )
    if not replayed:
        sys.stdout.write(
            "No pictures were given (--images): the bundle has nothing to replay, so learning a new class is not "
            "checked against the old ones and may cost them.\n"
        )
