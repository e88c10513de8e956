"""Every supported server with every client that may serve it; `invoke test-matrix` runs all of them."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version as distribution_version
from pathlib import Path

import pytest
from psycopg import sql

from backup.postgres.clients import InstalledClients
from backup.postgres.embedded import DISPOSABLE, Server, start_server
from backup.postgres.scratch import scratch_database
from backup.session.drill import drill_session
from backup.session.folder import Session
from tests.chain import CDC_BACKUP, new_project, psql
from tests.restoring import bring_back, everything, oddities
from tests.servers import FreshDatabase, fresh_database, version
from tests.sessions import fresh_role, reached, restore_well, rows, write
from tests.versions import RELEASES, binaries_of, old_psql

OLDEST, NEWEST = min(RELEASES), max(RELEASES)

CELLS = [(server, clients) for server in RELEASES for clients in RELEASES if clients >= server]
USUAL = [(OLDEST, OLDEST), (OLDEST, NEWEST), (NEWEST, NEWEST)]
"""What every run of the tests tries; the version that the machine has is in all other tests."""


def _cell(server: int, clients: int) -> object:
    marks = () if (server, clients) in USUAL else (pytest.mark.matrix,)
    return pytest.param(server, clients, marks=marks, id=f"server-{server}-clients-{clients}")


every_cell = pytest.mark.parametrize(("major_server", "clients"), [_cell(*cell) for cell in CELLS], indirect=True)


@pytest.fixture(scope="module")
def major_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of that major version."""
    with start_server(binaries_of(request.param), settings=DISPOSABLE) as server:
        yield server


@pytest.fixture
def clients(request: pytest.FixtureRequest) -> InstalledClients:
    """The clients of that major version."""
    return _clients(binaries_of(request.param))


def _clients(folder: Path) -> InstalledClients:
    return InstalledClients(folder=folder, version=version(folder / "psql"))


def _proven(database: FreshDatabase, root: Path, clients: InstalledClients) -> Session:
    session = write(database, root, clients=clients)
    there = reached(database)
    with scratch_database(there, "server") as scratch:
        assert drill_session(session, scratch=scratch, clients=clients, jobs=2).problem == ""
    return session


def _drop_cdc_tables(database: FreshDatabase) -> None:
    tables = database.rows("""
        select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where starts_with(c.relname, '_cdc_') and c.relkind in ('r', 'p') and not c.relispartition
    """)
    names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
    database.execute(sql.SQL("drop table {} cascade").format(names))


@every_cell
def test_oddities_are_proven_and_come_back_by_hand(
    major_server: Server, clients: InstalledClients, tmp_path: Path
) -> None:
    with (
        fresh_role(major_server) as role,
        fresh_role(major_server) as other,
        fresh_database(major_server) as database,
    ):
        oddities(database, role, other)
        before = everything(database)
        session = _proven(database, tmp_path, clients)
        assert session.manifest.client_version == clients.version
        _drop_cdc_tables(database)
        assert everything(database) != before
        # by the server's own psql, which may be older than what wrote the files
        restore_well(database, session.path / "restore.sql")
        assert everything(database) == before


@every_cell
def test_a_rehearsed_and_guarded_migration_is_foreseen_and_undone(
    major_server: Server, clients: InstalledClients, tmp_path: Path
) -> None:
    with new_project(major_server, tmp_path / "project") as project:
        project.configure(clients=str(clients.folder), drill=True, rehearse="on")
        before = everything(project.database)
        command = psql(project, "drop table _cdc_users", "delete from _cdc_roles")
        told, ended = project.json("run-safe", "--yes", "--", *command)
        assert (ended.code, told["status"]) == (0, "migrated"), ended.said
        changes = {"_cdc_users": "dropped", "_cdc_roles": "emptied", "_cdc_empty": "untouched"}
        assert {table["name"]: table["change"] for table in told["forecast"]["tables"]} == changes
        assert {table["name"]: table["change"] for table in told["verdict"]} == changes
        assert [strike["table"] for strike in told["guard"]["strikes"]] == ["public._cdc_users"]
        assert told["versions"] == {
            "cdc_backup": distribution_version("cdc-backup"),
            "server": version(major_server.binaries / "postgres"),
            "clients": clients.version,
        }
        assert everything(project.database) != before
        done = project.run(CDC_BACKUP, "restore", "--yes")
        assert done.code == 0, done.said
        assert everything(project.database) == before


@pytest.mark.parametrize("major_server", [OLDEST], indirect=True, ids=[f"of-{OLDEST}"])
@pytest.mark.parametrize(
    "newer", [pytest.param(m, marks=() if m == NEWEST else (pytest.mark.matrix,)) for m in RELEASES if m > OLDEST]
)
def test_a_session_comes_back_on_a_newer_server(major_server: Server, newer: int, tmp_path: Path) -> None:
    with (
        start_server(binaries_of(newer), settings=DISPOSABLE) as there,
        fresh_role(major_server) as role,
        fresh_role(major_server) as other,
        fresh_database(major_server) as database,
        fresh_database(there) as by_hand,
        fresh_database(there) as by_recipe,
    ):
        oddities(database, role, other)
        session = write(database, tmp_path, clients=_clients(binaries_of(OLDEST)))
        done = by_hand.psql(f"--file={session.path / 'restore.sql'}")
        assert done.returncode == 0, done.stderr
        bring_back(by_recipe, session)
        for table in session.manifest.tables:
            name = sql.Identifier(table.schema_name, table.name)
            assert rows(database, name) == rows(by_hand, name) == rows(by_recipe, name)


@pytest.mark.parametrize("major_server", [16], indirect=True, ids=["of-16"])
def test_a_psql_that_does_not_know_restrict_reads_what_the_newest_pg_dump_wrote(
    major_server: Server, tmp_path: Path
) -> None:
    folder = old_psql()
    assert version(folder / "psql") == "16.2"
    with (
        fresh_role(major_server) as role,
        fresh_role(major_server) as other,
        fresh_database(major_server) as database,
    ):
        oddities(database, role, other)
        before = everything(database)
        session = write(database, tmp_path, clients=_clients(binaries_of(NEWEST)))
        _drop_cdc_tables(database)
        file = session.path / "restore.sql"
        done = FreshDatabase(server=replace(major_server, binaries=folder), name=database.name).psql(f"--file={file}")
        assert (done.returncode, done.stderr) == (0, "")
        assert everything(database) == before
