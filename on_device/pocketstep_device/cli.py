"""``pocketstep-device``: the learner from a shell. Exit codes: 0 done, 1 failed check, 2 wrong use or bad input,
3 a runtime is missing."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketstep_device.errors import CheckFailedError, InputError, PocketstepError
from pocketstep_device.heap import return_large_blocks

if TYPE_CHECKING:
    from pocketstep_device.budget import Budget
    from pocketstep_device.learner import Learner

EPILOG = "Exit codes: 0 done; 1 a check failed; 2 wrong use or bad input; 3 a runtime is missing."
Result = dict[str, Any]
Run = Callable[[argparse.Namespace], tuple[Result, list[str]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors become one sentence on stderr and an exit code."""
    if arguments is None:  # a process of our own
        return_large_blocks()
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING)
    try:
        result, lines = options.run(options)
    except (PocketstepError, OSError) as error:
        if options.verbose:
            logging.exception("the command failed")
        sys.stderr.write(f"pocketstep-device: {error}\n")
        return error.exit_code if isinstance(error, PocketstepError) else InputError.exit_code
    except MemoryError:
        sys.stderr.write("pocketstep-device: out of memory; what was saved is as it was. End other programs\n")
        return CheckFailedError.exit_code
    if options.json:
        lines = [json.dumps(_plain(result), allow_nan=False)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(result.get("exit_code", 0))


def _plain(value: Any) -> Any:
    """NaN and infinity (a phase without a loss) become null: they are no JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pocketstep-device", description=__doc__, epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        command.add_argument("bundle", help="the bundle: a folder or a zip")
        command.add_argument("--runtime", default="litert", help="litert (default), tflite or executorch")
        command.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
        if name != "validate":
            command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument("--verbose", action="store_true", help="print the trace of an error")
        command.add_argument(
            "--trust", action="append", metavar="KEY",
            help="open only a bundle that this ed25519 key signed: 64 hex digits or a .pub file; may be repeated",
        )  # fmt: skip
        if name not in ("replay", "validate"):
            command.add_argument("--state", help="folder of what is learned (default: BUNDLE.state)")
        command.set_defaults(run=run, json=False)
        return command

    classify = add("classify", _classify, "label images")
    classify.add_argument("images", type=Path, help="a .npy or .npz file, a picture, or a folder of pictures")
    observe = add("observe", _observe, "store labelled images for the next update")
    observe.add_argument(
        "images", type=Path, help="as for classify; 'labels' in a .npz file, and folders in a folder, name classes"
    )
    observe.add_argument("--label", help="the class of all images, where they name none")
    observe.add_argument("--new-class", action="store_true", help="add classes that do not exist yet")
    learn = add("learn", _learn, "update on what was observed; keep it only when known classes survive")
    learn.add_argument(
        "--targets", metavar="PACK", help="learn from a target pack too: unlabelled images that the cloud's teacher saw"
    )
    _add_budget(learn)
    text = "let BUNDLE take over what was learned in --state with an older bundle"
    _add_budget(add("adopt", _adopt, text))
    add("rollback", _rollback, "take back the last update")
    forget = add("forget", _forget, "take a class out: its samples, its statistics, its place among the answers")
    forget.add_argument("--label", required=True, help="the class")
    add("status", _status, "what is known and stored")
    replay = add("replay", _replay, "replay the golden trace and report the largest relative error")
    validate = add("validate", _validate, "replay the golden trace, learn a made-up class, and write a report")
    validate.add_argument(
        "--json",
        dest="report",
        metavar="FILE",
        default="-",
        help="where the report goes ('-', the default: standard output)",
    )
    validate.add_argument("--no-learning", action="store_true", help="the golden trace only")
    for command in (replay, validate):
        command.add_argument("--tolerance", type=float, default=1e-4, help="largest relative error (default 1e-4)")
    return parser


def _add_budget(command: argparse.ArgumentParser) -> None:
    command.add_argument("--method", default="auto", help="a schedule of the bundle (default auto)")
    command.add_argument("--seconds", type=float, help="budget of time")
    command.add_argument("--memory-mb", type=float, help="budget of memory above idle, MiB")
    command.add_argument("--disk-mb", type=float, help="budget of what is written, MiB")
    command.add_argument("--update-threads", type=int, help="CPU threads of the update (default: --threads)")
    command.add_argument(
        "--min-battery", type=float, metavar="PERCENT",
        help="only while the battery (of Linux) has this much, or charges",
    )  # fmt: skip


def _budget(options: argparse.Namespace) -> Budget:
    from pocketstep_device.budget import Budget
    from pocketstep_device.power_supply import read_power

    if options.min_battery is None:
        return Budget(options.seconds, options.memory_mb, options.disk_mb, options.update_threads)
    read_power()  # there is a battery, or this fails
    level = options.min_battery / 100
    return Budget(options.seconds, options.memory_mb, options.disk_mb, options.update_threads, read_power, level)


def _trusted(options: argparse.Namespace) -> list[str] | None:
    """The keys of --trust, those in files read."""
    if options.trust is None:
        return None
    return [key_text(key) for key in options.trust]


def key_text(key: str) -> str:
    """A public key as it was given: its digits, or the content of a ``.pub`` file."""
    from pocketstep_device.storage import read_regular

    path = Path(key)
    if not path.suffix:
        return key
    return read_regular(path, 1024, f"The key {path}", InputError).decode("utf-8", "replace")


def _open(options: argparse.Namespace) -> Learner:
    from pocketstep_device.learner import Learner

    learner = Learner.open(
        options.bundle, options.state, options.runtime, options.threads, trusted_keys=_trusted(options)
    )
    _say(learner.notes)
    return learner


def _say(notes: Sequence[str]) -> None:
    """What went wrong without stopping anything."""
    for note in notes:
        sys.stderr.write(f"pocketstep-device: {note}\n")


def _classify(options: argparse.Namespace) -> tuple[Result, list[str]]:
    from pocketstep_device.images import read_images

    with _open(options) as learner:
        images, names, _ = read_images(options.images, learner.manifest.task.input.shape)
        labels, probabilities, classes = learner.classify(images)
    best = probabilities.max(1)
    lines = [f"{name}\t{label}\t{p:.3f}" for name, label, p in zip(names, labels, best, strict=True)]
    return {"images": names, "labels": labels, "probabilities": probabilities.tolist(), "classes": classes}, lines


def _observe(options: argparse.Namespace) -> tuple[Result, list[str]]:
    import numpy as np

    from pocketstep_device.images import check_images, read_images

    counts: dict[str, int] = {}
    with _open(options) as learner:
        shape = tuple(learner.manifest.task.input.shape)
        images, _, labels = read_images(options.images, shape)
        if labels is None and options.label is None:
            raise InputError(f"{options.images} has no labels; give one with --label")
        names = labels if labels is not None else [options.label] * len(images)
        unknown = sorted(set(names) - set(learner.classes))
        if unknown and not options.new_class:
            raise InputError(f"no class {', '.join(unknown)} here; add --new-class to make it")
        if len(unknown) > learner.free_slots:
            raise InputError(f"{len(unknown)} new classes for {learner.free_slots} free slots; observe fewer")
        check_images(images, shape)  # before a class takes a slot
        for name in unknown:
            learner.add_class(name)
        for name in sorted(set(names)):
            counts[name] = learner.observe(images[np.array([n == name for n in names])], name)
    return {"observed": counts}, [f"{name}\t{count} stored" for name, count in counts.items()]


def _show(progress: Any) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{progress.phase} {progress.step}/{progress.steps} loss {progress.loss:.3f}   ")


def _learn(options: argparse.Namespace) -> tuple[Result, list[str]]:
    with _open(options) as learner:
        report = learner.update(_budget(options), _show, options.method, options.targets)
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    verdict = f"kept '{report.chosen}'" if report.accepted else "rolled back"
    lines = [
        f"{verdict}: {report.reason}",
        f"held back: known {report.old_before:.1%} -> {report.old_accuracy:.1%}, observed {report.new_accuracy:.1%}",
        f"{report.seconds:.2f} s, {report.peak_memory_mb:.1f} MiB above idle",
    ]
    return {**asdict(report), "exit_code": 0 if report.accepted else CheckFailedError.exit_code}, lines


def _adopt(options: argparse.Namespace) -> tuple[Result, list[str]]:
    from pocketstep_device.adoption import adopt

    if options.state is None:
        raise InputError("adopt needs --state: the folder of what was learned with the older bundle")
    found = adopt(
        options.bundle, options.state, options.runtime, options.threads, trusted_keys=_trusted(options),
        budget=_budget(options), on_progress=_show, method=options.method,
    )  # fmt: skip
    _say(found.notes)
    lines = [f"{'adopted' if found.accepted else 'not adopted'}: {found.reason}"]
    if found.classes:
        lines.append(f"the device's own classes: {', '.join(found.classes)}; {found.samples} samples")
    return {**asdict(found), "exit_code": 0 if found.accepted else CheckFailedError.exit_code}, lines


def _rollback(options: argparse.Namespace) -> tuple[Result, list[str]]:
    with _open(options) as learner:
        learner.rollback()
        return learner.status(), ["the last update was taken back"]


def _forget(options: argparse.Namespace) -> tuple[Result, list[str]]:
    with _open(options) as learner:
        learner.forget(options.label)
        return learner.status(), [f"'{options.label}' was taken out; it can be taught again"]


def _status(options: argparse.Namespace) -> tuple[Result, list[str]]:
    with _open(options) as learner:
        status = learner.status()
    return status, [f"{key}\t{value}" for key, value in status.items()]


def _replay(options: argparse.Namespace) -> tuple[Result, list[str]]:
    from pocketstep_device.bundle import Bundle
    from pocketstep_device.golden import replay
    from pocketstep_device.machine import Machine

    bundle = Bundle.open(options.bundle, _trusted(options))
    calls = replay(bundle, Machine(bundle, options.runtime, options.threads))
    worst = max(call.worst for call in calls)
    lines = [f"{c.index}\t{c.signature}\t{c.worst:.2e}\t{c.seconds * 1e3:.2f} ms" for c in calls]
    lines.append(f"largest relative error {worst:.2e}, tolerance {options.tolerance:.0e}")
    code = 0 if worst <= options.tolerance else CheckFailedError.exit_code
    result = {"calls": [{**asdict(c), "worst": c.worst} for c in calls], "worst": worst, "exit_code": code}
    return result, lines


def _validate(options: argparse.Namespace) -> tuple[Result, list[str]]:
    from pocketstep_device.validation import validate

    learning, keys = not options.no_learning, _trusted(options)
    report = _plain(validate(options.bundle, options.runtime, options.threads, options.tolerance, learning, keys))
    code = report["error_code"] or (0 if report["passed"] else CheckFailedError.exit_code)
    text = json.dumps(report, allow_nan=False)
    if options.report == "-":
        return {"exit_code": code}, [text]
    Path(options.report).write_text(text)
    return {"exit_code": code}, [report["error"] or ("passed" if report["passed"] else "FAILED")]


if __name__ == "__main__":
    raise SystemExit(main())
