"""Style: ktlint and detekt over all Kotlin files."""

from __future__ import annotations

from androidlib.artifacts import jar
from androidlib.compiling import JAVA_FLAGS
from androidlib.paths import APP, need, run


def lint(fix: bool = False) -> None:
    """Fails on the first tool that finds something."""
    java = need("java", "openjdk-17-jdk")
    opened = ["--add-opens=java.base/java.lang=ALL-UNNAMED"]
    patterns = ["**/*.kt", "!**/build/**"]
    run(
        [java, *JAVA_FLAGS, *opened, "-jar", jar("ktlint", "ktlint"), "--log-level=error", *(["-F"] if fix else []),
         *patterns],
        cwd=APP,
    )  # fmt: skip
    run(
        [java, *JAVA_FLAGS, "-jar", jar("detekt", "detekt"), "--build-upon-default-config", "--config", "detekt.yml",
         "--excludes", "**/build/**", "--input", APP],
        cwd=APP,
    )  # fmt: skip
