"""This project's own recipes, and `migration.*` as any team gets them."""

import os
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from backup.process import attend
from backup.recipes import migration

_HERE = Path(__file__).parent


@task(help={"only": "Only the tests that this expression of pytest's -k names."})
def test(_: Context, only: str | None = None) -> None:
    """Run all tests, real PostgreSQL included."""
    _run("pytest", *(["-k", only] if only else []))


@task
def lint(_: Context) -> None:
    """Check style and types."""
    _run("ruff", "check")
    _run("ruff", "format", "--check")
    _run("mypy")


def _run(module: str, *arguments: str) -> None:
    """Run one of the development tools as a person would; a failure ends the recipe with its exit code."""
    argv = (sys.executable, "-m", module, *arguments)
    ended = attend(argv, environment=os.environ, cwd=_HERE)
    if ended.returncode:
        raise Exit(code=ended.returncode)


ns = Collection(migration, test, lint)
