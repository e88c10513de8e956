"""This project's own recipes, and `migration.*` as any team gets them."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from backup.errors import CDCBackupError, ExitCode, ProcessError
from backup.process import attend, run
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


@task(help={"major": "PostgreSQL's major version: 14 to 18, or all."})
def up(_: Context, major: str = "18") -> None:
    """Start PostgreSQL in a container, wait until it is ready, and print its URL (docker-compose.yml)."""
    services = yaml.safe_load((_HERE / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    chosen = [service for service in services.values() if major in service["profiles"]]
    if not chosen:
        known = ", ".join(service["profiles"][0] for service in services.values())
        raise Exit(f"There is no PostgreSQL {major} in docker-compose.yml; there are {known}, and all.", ExitCode.USAGE)
    _compose("--profile", major, "up", "--detach", "--wait")
    for service in chosen:
        host, port, _inside = service["ports"][0].split(":")
        sys.stdout.write(f"DATABASE_URL=postgresql://postgres:postgres@{host}:{port}/app\n")


@task
def down(_: Context) -> None:
    """End the containers that `up` started, whatever their version, and delete their data."""
    _compose("--profile", "all", "down", "--volumes")


def _compose(*arguments: str) -> None:
    """Run compose on this project's file: Docker's plugin, or the program of its own."""
    docker, alone = shutil.which("docker"), shutil.which("docker-compose")
    program: tuple[str, ...] = (alone,) if alone else ()
    if docker:
        try:
            run((docker, "compose", "version"), environment=os.environ)
            program = (docker, "compose")
        except ProcessError:  # the plugin is not installed
            pass
    if not program:
        raise Exit(
            "There is no compose program: neither docker compose nor docker-compose runs here.\n"
            "Nothing was started.\n"
            "Install Docker's compose plugin; or use any other PostgreSQL, which needs no container.",
            ExitCode.USAGE,
        )
    _attend((*program, *arguments))


def _run(module: str, *arguments: str) -> None:
    """Run one of the development tools as a person would; a failure ends the recipe with its exit code."""
    _attend((sys.executable, "-m", module, *arguments))


def _attend(argv: tuple[str, ...]) -> None:
    ended = attend(argv, environment=os.environ, cwd=_HERE)
    if ended.returncode:
        raise Exit(code=ended.returncode)


ns = Collection(migration, demo, run_tests, run_matrix, run_bench, lint, up, down)
