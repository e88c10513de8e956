"""This project's own recipes, and `migration.*` as any team gets them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from backup.errors import CDCBackupError
from backup.process import attend
from backup.recipes import migration

_HERE = Path(__file__).parent


@task
def demo(_: Context) -> None:
    """Show the main job on a private PostgreSQL: back up, migrate, see the loss, restore."""
    from examples.demo import run_demo

    try:
        run_demo(_HERE / "local" / "demo")
    except CDCBackupError as error:
        raise Exit(str(error), error.exit_code) from error


@task(name="test", help={"only": "Only the tests that this expression of pytest's -k names."})
def run_tests(_: Context, only: str | None = None) -> None:
    """Run all tests, real PostgreSQL included."""
    # Most of the time a test waits for a server or a child of its own.
    _run("pytest", "--numprocesses=auto", "--dist=worksteal", *(["-k", only] if only else []))


@task(name="test-matrix")
def run_matrix(_: Context) -> None:
    """Try every supported server with every client that may serve it; they are fetched from the package index."""
    _run("pytest", "--numprocesses=auto", "--dist=worksteal", "-m", "", "tests/test_versions.py")


@task
def lint(_: Context) -> None:
    """Check style and types."""
    _run("ruff", "check")
    _run("ruff", "format", "--check")
    _run("mypy")


@task(
    name="bench",
    iterable=["only"],
    help={"only": "Only this case; may be given several times.", "quick": "Try the cases with few rows, once."},
)
def run_bench(_: Context, only: Sequence[str], quick: bool = False) -> None:
    """Measure this tool beside what a person would use instead; bench/README.md tells the cases."""
    from bench.measure import BenchError
    from bench.run import run_cases

    try:
        run_cases(only, quick=quick)
    except CDCBackupError as error:
        raise Exit(str(error), error.exit_code) from error
    except BenchError as error:
        raise Exit(str(error), 1) from error


def _run(module: str, *arguments: str) -> None:
    """Run one of the development tools as a person would; a failure ends the recipe with its exit code."""
    argv = (sys.executable, "-m", module, *arguments)
    ended = attend(argv, environment=os.environ, cwd=_HERE)
    if ended.returncode:
        raise Exit(code=ended.returncode)


ns = Collection(migration, demo, run_tests, run_matrix, run_bench, lint)
