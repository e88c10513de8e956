"""A session's files under `psql -f`, without flags and without anything of ours: as good as the recipe."""

import subprocess
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest
from psycopg import sql

from backup.postgres.clients import InstalledClients
from backup.postgres.embedded import Server
from backup.session.folder import Session
from tests.restoring import everything, oddities
from tests.servers import FreshDatabase, find_binaries, fresh_database, version
from tests.sessions import fresh_role, restore, restore_well, rows, write


@pytest.mark.parametrize("format_", ["sql", "copy"])
def test_oddities_of_every_sort_come_back_as_they_were(
    server: Server, tmp_path: Path, format_: Literal["sql", "copy"]
) -> None:
    with fresh_role(server) as role, fresh_role(server) as other, fresh_database(server) as database:
        oddities(database, role, other)
        before = everything(database)
        session = write(database, tmp_path, format=format_)
        tables = database.rows("""
            select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where starts_with(c.relname, '_cdc_') and c.relkind in ('r', 'p') and not c.relispartition
        """)
        database.execute(
            sql.SQL("drop table {} cascade").format(sql.SQL(", ").join(sql.Identifier(*table) for table in tables))
        )
        assert everything(database) != before
        restore_well(database, session.path / "restore.sql")
        assert everything(database) == before
        # Once more, where all is there: nothing changes.
        restore_well(database, session.path / "restore.sql")
        assert everything(database) == before


def test_oddities_come_back_in_an_empty_database_of_another_server(
    machine_server: Server, embedded_server: Server, tmp_path: Path
) -> None:
    with (
        fresh_role(machine_server) as role,
        fresh_role(machine_server) as other,
        fresh_database(machine_server) as database,
        fresh_database(embedded_server) as empty,
    ):
        oddities(database, role, other)
        session = write(database, tmp_path)
        done = restore(empty, session.path / "restore.sql")
        assert done.returncode == 0, done.stderr
        for table in session.manifest.tables:
            name = sql.Identifier(table.schema_name, table.name)
            assert rows(empty, name) == rows(database, name)


def _session(database: FreshDatabase, root: Path, format_: Literal["sql", "copy"] = "sql") -> Session:
    database.execute("""
        create table _cdc_key (id int primary key, a text); insert into _cdc_key values (1, 'x'), (2, 'y'), (3, 'z');
        create table _cdc_loose (a int); insert into _cdc_loose values (1), (1), (2);
    """)
    return write(database, root, format=format_)


@pytest.mark.parametrize("format_", ["sql", "copy"])
def test_rows_that_are_missing_are_added_where_there_is_a_key(
    database: FreshDatabase, tmp_path: Path, format_: Literal["sql", "copy"]
) -> None:
    session = _session(database, tmp_path, format_)
    database.execute("delete from _cdc_key where id = 2; update _cdc_key set a = 'new' where id = 3")
    said = restore_well(database, session.path / "_cdc_key.sql")
    assert said == (
        "public._cdc_key: 1 rows of the backup were missing and are back;"
        " 1 rows differ from the backup and were kept.\n"
    )
    assert rows(database, "_cdc_key") == ["(1,x)", "(2,y)", "(3,new)"]


@pytest.mark.parametrize("loss", ["delete from _cdc_loose where a = 2", "update _cdc_loose set a = 3 where a = 2"])
def test_without_a_key_a_person_has_to_choose(database: FreshDatabase, tmp_path: Path, loss: str) -> None:
    session = _session(database, tmp_path)
    database.execute(sql.SQL(loss))
    before = everything(database)
    done = restore(database, session.path / "_cdc_loose.sql")
    assert done.returncode == 3
    assert "has rows, but no key to tell which of them are missing; nothing was changed" in done.stderr
    assert "--mode aside" in done.stderr
    assert "--mode replace" in done.stderr
    assert everything(database) == before


@pytest.mark.parametrize("state", ["select", "insert into _cdc_loose values (5)"])
def test_without_a_key_nothing_is_refused_where_nothing_is_missing(
    database: FreshDatabase, tmp_path: Path, state: str
) -> None:
    session = _session(database, tmp_path)
    database.execute(sql.SQL(state))
    before = everything(database)
    restore_well(database, session.path / "_cdc_loose.sql")
    assert everything(database) == before


def test_without_a_key_an_empty_table_is_filled(database: FreshDatabase, tmp_path: Path) -> None:
    session = _session(database, tmp_path)
    before = everything(database)
    database.execute("truncate _cdc_loose")
    restore_well(database, session.path / "restore.sql")
    assert everything(database) == before


@pytest.mark.parametrize("file", ["_cdc_key.sql", "restore.sql"])
@pytest.mark.parametrize(
    "change",
    ["drop a", "alter a type varchar(5)", "rename a to b"],
)
def test_columns_that_have_changed_are_refused(database: FreshDatabase, tmp_path: Path, change: str, file: str) -> None:
    session = _session(database, tmp_path)
    database.execute(sql.SQL(f"alter table _cdc_key {change}"))
    before = everything(database)
    done = restore(database, session.path / file)
    assert done.returncode == 3
    assert "public._cdc_key has no such columns any more: a text; nothing was changed" in done.stderr
    assert "--mode aside" in done.stderr
    assert everything(database) == before


def test_restore_that_fails_on_its_way_changes_nothing(database: FreshDatabase, tmp_path: Path) -> None:
    session = _session(database, tmp_path)
    database.execute("drop table _cdc_key; truncate _cdc_loose; alter table _cdc_loose add check (a > 1)")
    before = everything(database)
    done = restore(database, session.path / "restore.sql")
    assert done.returncode == 3
    assert "violates check constraint" in done.stderr
    assert everything(database) == before


def test_files_of_a_newer_pg_dump_are_read_by_the_servers_own_psql(machine_server: Server, tmp_path: Path) -> None:
    embedded = find_binaries("embedded")
    assert embedded
    newer = InstalledClients(folder=embedded, version=version(embedded / "pg_dump"))
    with (
        fresh_role(machine_server) as role,
        fresh_role(machine_server) as other,
        fresh_database(machine_server) as database,
    ):
        oddities(database, role, other)
        before = everything(database)
        session = write(database, tmp_path, clients=newer)
        database.execute("drop table _cdc_users, _cdc_values, audit._cdc_users cascade")
        restore_well(database, session.path / "restore.sql")
        assert everything(database) == before


def test_a_connections_own_settings_change_nothing(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_t (id int primary key, d date, f float8, b bytea, i interval, t text, z timestamptz);
        insert into _cdc_t values (1, '2025-01-02', 0.1 + 0.2, '\\x5c00', '-1 mon 2 days 03:00', E'\\\\ \\n''',
            '2025-06-01 12:00+00'), (2, null, null, null, null, null, null);
    """)
    before = everything(database)
    session = write(database, tmp_path)
    options = (
        "datestyle=SQL,DMY", "intervalstyle=iso_8601", "extra_float_digits=-5", "bytea_output=escape",
        "timezone=Asia/Tokyo", "standard_conforming_strings=off", "escape_string_warning=off", "search_path=pg_catalog",
        "default_transaction_read_only=off", "statement_timeout=100000", "row_security=on",
    )  # fmt: skip
    url = f"{database.url}?options={'%20'.join(f'-c%20{quote(option)}' for option in options)}"
    for loss in ("drop table _cdc_t", "delete from _cdc_t where id = 1"):
        database.execute(sql.SQL(loss))
        done = restore(database, session.path / "_cdc_t.sql", f"--dbname={url}")
        assert (done.returncode, done.stderr) == (0, "")
        assert everything(database) == before


def test_restore_from_any_folder_finds_its_files(
    database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(database, tmp_path / "odd 'name\" \\ %")
    database.execute("drop table _cdc_key")
    monkeypatch.chdir("/")
    restore_well(database, session.path / "restore.sql")
    assert len(rows(database, "_cdc_key")) == 3


def test_a_dead_psql_changes_nothing(database: FreshDatabase, tmp_path: Path) -> None:
    """Its file ends before the COMMIT, as what a killed psql has sent does."""
    session = _session(database, tmp_path)
    text = (session.path / "_cdc_key.sql").read_text().rpartition("COMMIT")[0]
    database.execute("drop table _cdc_key")
    subprocess.run(("cp", str(session.path / "_cdc_key.sql"), str(tmp_path)), check=True)
    (tmp_path / "cut.sql").write_text(text)
    restore(database, tmp_path / "cut.sql")
    assert database.rows("select to_regclass('_cdc_key')") == [(None,)]
