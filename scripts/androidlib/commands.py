"""The commands of ``scripts/android``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from androidlib import (
    apk,
    artifacts,
    bundle,
    compiling,
    docs,
    executorch,
    linting,
    resources,
    screens,
    sizes,
    testing,
    validator,
)  # fmt: skip


def add(commands: Any) -> None:
    """Declares every command."""
    for name, function, text in (
        ("lock", lambda _: artifacts.lock(), "resolve the catalog's versions into artifacts.lock"),
        ("fetch", _fetch, "fetch the locked artifacts"),
        ("lint", _lint, "ktlint and detekt"),
        ("compile", _compile, "all modules and their tests"),
        ("test", _test, "tests on the JVM, on Robolectric and on the runtimes' own native libraries"),
        ("check", _check, "lint, compile, test"),
        ("sizes", _sizes, "what the library adds to an app: dex by D8, native libraries by ABI"),
        ("docs", lambda _: docs.build(), "API pages by Dokka, into build/docs"),
        ("validator", _validator, "build/validator.apk, for pocketstep validate --target adb"),
        ("bundle", _bundle, "put a bundle of pocketstep's demo or export into the demo app"),
        ("apk", _apk, "a signed debug APK of the demo app for arm64-v8a and x86_64, and its size by part"),
        ("screens", _screens, "draw the app's screens, and keep four of them in android_app/docs"),
        ("fixtures", _fixtures, "put the bundle and what Python made of it into the instrumented tests' assets"),
    ):
        parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(run=function)
        if name in ("lint", "check"):
            parser.add_argument("--fix", action="store_true", help="let ktlint reformat first")
        if name in ("test", "check", "fixtures", "screens", "bundle"):
            if name == "bundle":
                parser.add_argument("bundle", type=Path, help="a folder or zip")
            else:
                parser.add_argument("--bundle", type=Path, help="the digits' bundle; one is built where not given")
            parser.add_argument("--python", type=Path, help="interpreter with pocketstep; .venv's where not given")
        if name == "apk":
            parser.add_argument("--shrink", action="store_true", help="with R8, as a release is")
        if name in ("test", "check"):
            parser.add_argument("classes", nargs="*", help="only test classes with these names")


def _fetch(_: argparse.Namespace) -> None:
    artifacts.fetch()
    executorch.fetch()


def _lint(arguments: argparse.Namespace) -> None:
    _fetch(arguments)
    linting.lint(arguments.fix)


def _compile(arguments: argparse.Namespace) -> None:
    _fetch(arguments)
    resources.link()
    compiling.compile_all()


def _test(arguments: argparse.Namespace) -> None:
    _compile(arguments)
    testing.run_tests(arguments.bundle, arguments.python, arguments.classes)


def _check(arguments: argparse.Namespace) -> None:
    _lint(arguments)
    _test(arguments)


def _bundle(arguments: argparse.Namespace) -> None:
    bundle.put(arguments.bundle, arguments.python)


def _apk(arguments: argparse.Namespace) -> None:
    _compile(arguments)
    apk.build(arguments.shrink)


def _screens(arguments: argparse.Namespace) -> None:
    _compile(arguments)
    screens.draw(arguments.bundle, arguments.python)


def _sizes(arguments: argparse.Namespace) -> None:
    _compile(arguments)
    sizes.show()


def _validator(arguments: argparse.Namespace) -> None:
    _compile(arguments)
    validator.build()


def _fixtures(arguments: argparse.Namespace) -> None:
    _fetch(arguments)
    testing.put_fixtures(arguments.bundle, arguments.python)
