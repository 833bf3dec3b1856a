"""API pages by Dokka, through its Maven plugin: one folder of HTML a module."""

from __future__ import annotations

import shutil

from androidlib.artifacts import version
from androidlib.compiling import MODULES
from androidlib.paths import APP, BUILD, FAILED, need, run, stop

DOCS = BUILD / "docs"


def build() -> None:
    """Writes ``android_app/build/docs``; fails when a module's pages lack its first class."""
    for module in MODULES:
        if not module.is_library or module.name == "learner-testing":
            continue
        target = DOCS / module.name
        shutil.rmtree(target, ignore_errors=True)
        pom = BUILD / "dokka" / module.name / "pom.xml"
        pom.parent.mkdir(parents=True, exist_ok=True)
        pom.write_text(
            "<project><modelVersion>4.0.0</modelVersion><groupId>pocketstep</groupId>"
            f"<artifactId>{module.name}</artifactId><version>0</version><packaging>jar</packaging><build>"
            f"<sourceDirectory>{APP / module.name / 'src' / 'main' / 'kotlin'}</sourceDirectory><plugins><plugin>"
            "<groupId>org.jetbrains.dokka</groupId><artifactId>dokka-maven-plugin</artifactId>"
            f"<version>{version('dokka')}</version><configuration><outputDir>{target}</outputDir>"
            f"<moduleName>{module.name}</moduleName></configuration></plugin></plugins></build></project>"
        )
        plugin = f"org.jetbrains.dokka:dokka-maven-plugin:{version('dokka')}:dokka"
        run([need("mvn", "maven"), "-B", "-q", "-Dstyle.color=never", "-f", pom, plugin])
        pages = list(target.rglob("*.html"))
        if len(pages) < 3:
            stop(f"Dokka wrote {len(pages)} pages for {module.name}", FAILED)
        print(f"{module.name}: {len(pages)} pages, {target / 'index.html'}")
