"""Drizzle projects for tests: the example's schema with the real drizzle-kit of one version."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

from filelock import FileLock

from backup.errors import UsageError
from backup.process import find_program, run

EXAMPLE = Path(__file__).parent.parent / "examples" / "drizzle"

DrizzleVersion: TypeAlias = Literal["stable", "rc"]

PACKAGES: dict[DrizzleVersion, dict[str, str]] = {
    "stable": {"drizzle-kit": "0.31.11", "drizzle-orm": "0.45.4", "pg": "8.16.3"},
    # the drizzle-orm that this drizzle-kit asks for as its peer
    "rc": {"drizzle-kit": "1.0.0-rc.5", "drizzle-orm": "1.0.0-rc.5", "pg": "8.16.3"},
}


class NodeMissingError(Exception):
    """Node or npm is not on this machine, so that no drizzle-kit can be."""


def install(version: DrizzleVersion, cache: Path) -> Path:
    """The folder that holds `node_modules` with drizzle-kit of this version; made once in `cache`.

    Two test runs at once share it: one installs, the other waits.

    Raises:
        NodeMissingError: there is no node or no npm on PATH.
        ProcessError: npm could not install it.
    """
    try:
        find_program("node")
        npm = find_program("npm")
    except UsageError as error:
        raise NodeMissingError(error.what) from error
    package = json.dumps({"private": True, "dependencies": PACKAGES[version]}, indent=2)
    installed = cache / f"drizzle-{version}-{hashlib.sha256(package.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{installed}.lock"):
        if not installed.exists():
            # a folder with the final name is whole, whatever ended an installation before
            making = Path(tempfile.mkdtemp(prefix=f"{installed.name}.", dir=cache))
            try:
                (making / "package.json").write_text(package)
                options = ("--no-audit", "--no-fund", "--no-package-lock")
                run((str(npm), "install", *options), environment=os.environ, cwd=making)
                making.rename(installed)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
    return installed


def make_project(folder: Path, installed: Path) -> Path:
    """The example as a project of its own in `folder`, with what `install` made; returns `folder`."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "local"), dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(installed / "node_modules", target_is_directory=True)
    return folder


def edit_schema(project: Path, old: str, new: str) -> None:
    """Changes the project's schema; `old` must stand in it exactly once."""
    schema = project / "src" / "schema.ts"
    text = schema.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {schema}"
    schema.write_text(text.replace(old, new))
