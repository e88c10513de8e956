"""The delta: what was written after a backup and saved when its table was taken comes back with the session."""

import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from backup.errors import BackupError, RestoreError
from backup.listing import show_sessions
from backup.postgres.embedded import Server
from backup.postgres.fingerprint import SETTINGS, fingerprint
from backup.postgres.newer import Horizon, newer_than
from backup.postgres.scratch import scratch_database
from backup.postgres.tables import Kind, Table
from backup.report import Report
from backup.session.delta import DeltaWriter, copied_columns
from backup.session.delta_parts import Delta, delta_folder, lonely_deltas, read_delta
from backup.session.drill import drill_session
from backup.session.folder import Session, new_session
from backup.session.packing import SUFFIXES, UNPACK
from backup.session.plain import plain_files
from backup.session.prune import prune_sessions, review_sessions
from backup.session.restore import RestoreMode
from backup.session.sidecar import Restore
from backup.session.write import write_session
from backup.settings import Compression
from tests.restoring import bring_back, done, drill, everything
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import clients_for, reached, restore, restore_well, rows, snapshot, write
from tests.test_chain import small_disk

TABLES = """
create schema "Odd ""schema";
create table _cdc_keyed (id int generated always as identity primary key, t text, up text
    generated always as (upper(t)) stored, at timestamptz default '2025-01-01');
create table _cdc_plain (n int, f float8, t text, b bytea, a text[]);
create table _cdc_empty (id bigserial primary key, t text);
create table "Odd ""schema"."_cdc_a'b\\c" ("a""b" int unique not null, "c d" interval);
create table _cdc_parts (id int generated always as identity, k int not null, primary key (id, k))
    partition by list (k);
create table _cdc_parts_1 partition of _cdc_parts for values in (1);
create table _cdc_parts_2 partition of _cdc_parts for values in (2);
create table _cdc_none ();
insert into _cdc_keyed (t) values ('x'), ('y');
insert into _cdc_plain values (1, '-0', 'x', null, null), (1, '-0', 'x', null, null), (2, 0.1, null, '', '{}');
insert into "Odd ""schema"."_cdc_a'b\\c" values (1, '1 mon');
insert into _cdc_parts (k) values (1), (2), (1);
insert into _cdc_none default values;
"""

MORE = r"""
insert into _cdc_keyed (t) values (E'tab\there\nline\\.'), ('\.'), (null), ('ä€𝄞');
insert into _cdc_plain values (1, '-0', 'x', null, null), (3, 'NaN', E'\r', '\x00ff', '{NULL,"NULL"}');
insert into _cdc_empty (t) values ('first'), ('second');
insert into "Odd ""schema"."_cdc_a'b\c" values (2, '-3 days 00:00:01.5'), (3, null);
insert into _cdc_parts (k) values (2), (2);
insert into _cdc_none default values;
"""

DROP = """drop table _cdc_keyed, _cdc_plain, _cdc_empty, _cdc_parts, _cdc_none; drop schema "Odd ""schema" cascade"""


@dataclass
class Guarded:
    """A backup of a database, and what is saved of it afterwards, as the guard does it."""

    database: FreshDatabase
    session: Session
    tables: dict[str, Table]
    rows: dict[int, int]
    horizon: Horizon
    writer: DeltaWriter

    @property
    def folder(self) -> Path:
        return delta_folder(self.session.path)

    @property
    def delta(self) -> Delta:
        delta = read_delta(self.session.path)
        assert delta is not None
        return delta

    def save(self, *names: str, false_print: str = "") -> None:
        """Save what the backup does not have of the tables, or of all."""
        for name in names or [name for name, table in self.tables.items() if table.kind is Kind.ORDINARY]:
            table = self.tables[name]
            with self.database.connect() as connection, connection.transaction():
                connection.execute("set transaction isolation level repeatable read")
                connection.execute(SETTINGS)
                newer = newer_than(self.horizon, table)
                count = sql.SQL("select count(*), count(*) filter (where {}) from only {}").format(
                    newer, table.identifier
                )
                ((now, fresh),) = connection.execute(count).fetchall()
                whole = self.rows[table.oid] + fresh != now
                which = sql.SQL("true") if whole else newer
                connection.execute(
                    sql.SQL("create temp table saved on commit drop as select * from only {} where {}").format(
                        table.identifier, which
                    )
                )
                expression = fingerprint(sql.Identifier("pg_temp", "saved"), [column.name for column in table.columns])
                ((computed,),) = connection.execute(sql.SQL("select {}").format(expression)).fetchall()
                columns = sql.SQL(", ").join(map(sql.Identifier, copied_columns(table)))
                query = sql.SQL("copy (select {} from only {} where {}) to stdout").format(
                    columns, table.identifier, which
                )
                with connection.cursor() as cursor, cursor.copy(query) as chunks:
                    self.writer.save(
                        table,
                        (bytes(chunk) for chunk in chunks),
                        rows=now if whole else fresh,
                        fingerprint=false_print or str(computed),
                        merged=whole,
                    )

    def state(self) -> dict[str, list[str]]:
        """The rows of all tables."""
        ordinary = {name: table for name, table in self.tables.items() if table.kind is Kind.ORDINARY}
        return {name: rows(self.database, table.identifier) for name, table in ordinary.items()}


def guarded(database: FreshDatabase, root: Path, compression: Compression | None = None) -> Guarded:
    with new_session(root) as partial, snapshot(database) as taken:
        session = write_session(
            taken,
            database=reached(database),
            clients=clients_for(database),
            folder=partial,
            jobs=2,
            compression=compression,
        )
        horizon = taken.horizon
    return Guarded(
        database=database,
        session=session,
        tables={table.name: table for table in taken.tables},
        rows={oid: count.rows for oid, count in taken.counts.items()},
        horizon=horizon,
        writer=DeltaWriter(session),
    )


@pytest.fixture
def database(embedded_server: Server) -> Iterator[FreshDatabase]:
    with fresh_database(embedded_server) as fresh:
        yield fresh


@pytest.fixture
def full(database: FreshDatabase, tmp_path: Path) -> Guarded:
    database.execute(TABLES)
    return guarded(database, tmp_path / "it's a folder")


@pytest.fixture
def small(database: FreshDatabase, tmp_path: Path) -> Guarded:
    database.execute("""
        create table _cdc_k (id int primary key, t text); insert into _cdc_k values (1, 'a'), (2, 'b'), (3, 'c');
        create table _cdc_n (t text); insert into _cdc_n values ('a'), ('a'), ('b');
    """)
    return guarded(database, tmp_path / "sessions")


@pytest.mark.parametrize("way", ["recipe", "by hand"])
def test_session_and_delta_are_the_tables_as_they_were_when_they_were_taken(full: Guarded, way: str) -> None:
    full.database.execute(MORE)
    before = full.state()
    definitions = everything(full.database)
    full.save()
    assert {part.kind for table in full.delta.tables for part in table.parts} == {"newer"}
    full.database.execute(DROP)
    if way == "recipe":
        result = bring_back(full.database, full.session)
        assert done(result)["_cdc_keyed"] == (6, 0, 0)
        assert {p.saved.name: p.done.newer for p in result.plan or () if p.done and p.done.newer} == {
            "_cdc_keyed": 4, "_cdc_plain": 2, "_cdc_empty": 2, "_cdc_a'b\\c": 2, "_cdc_parts_2": 2, "_cdc_none": 1,
        }  # fmt: skip
    else:
        assert "with 6 rows, those of the delta included" in restore_well(full.database, full.folder / "restore.sql")
    assert full.state() == before
    assert everything(full.database) == definitions


@pytest.mark.parametrize("way", ["recipe", "by hand"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_session_and_its_delta_come_back_together(
    database: FreshDatabase, tmp_path: Path, compression: Compression, way: str
) -> None:
    database.execute(TABLES)
    full = guarded(database, tmp_path / "it's a folder", compression)
    drill(database, full.session)
    database.execute(MORE)
    before, definitions = full.state(), everything(database)
    full.save()
    assert drill(database, full.session).delta
    database.execute(DROP)
    if way == "recipe":
        assert done(bring_back(database, full.session))["_cdc_keyed"] == (6, 0, 0)
    else:
        # Packed as it is, psql does not find what it is to read, and nothing is changed.
        assert restore(database, full.folder / "restore.sql").returncode == 3
        assert database.rows("select to_regclass('_cdc_keyed')") == [(None,)]
        summary = (full.folder / "delta-summary.txt").read_text()
        assert f"{UNPACK[compression]} {full.session.name}/*{SUFFIXES[compression]}\n" in summary
        with plain_files(full.session, full.rows) as files:
            for path in files.glob("*_cdc_*.sql"):
                shutil.copy(path, full.session.path)
        restore_well(database, full.folder / "restore.sql")
    assert full.state() == before
    assert everything(database) == definitions


def test_of_many_rows_that_came_while_an_older_transaction_is_open_only_the_newer_are_saved(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create table _cdc_many (id int); create table other (id int)")
    with database.connect() as running:
        running.execute("begin; insert into other values (1)")
        database.execute("insert into _cdc_many select generate_series(1, 100001)")
        saved = guarded(database, tmp_path)
        database.execute("insert into _cdc_many values (-1)")
        saved.save()
    assert saved.delta.rows == 1


def test_an_older_server_and_its_own_psql_bring_back_both(machine_server: Server, tmp_path: Path) -> None:
    with fresh_database(machine_server) as database:
        database.execute("""
            create table _cdc_k (id bigserial primary key, t text); insert into _cdc_k (t) values ('a'), ('b');
            create table _cdc_n (t text); insert into _cdc_n values ('a'), ('a');
        """)
        saved = guarded(database, tmp_path)
        database.execute("insert into _cdc_k (t) values ('c'); update _cdc_n set t = 'b'")
        saved.save()
        database.execute("drop table _cdc_k, _cdc_n")
        restore_well(database, saved.folder / "restore.sql")
        assert (rows(database, "_cdc_k"), rows(database, "_cdc_n")) == (
            ["(1,a)", "(2,b)", "(3,c)"],
            ["(a)", "(a)", "(b)", "(b)"],
        )


def test_what_is_written_after_the_restore_gets_numbers_that_no_row_of_the_delta_has(full: Guarded) -> None:
    full.database.execute(MORE)
    full.save()
    full.database.execute(DROP)
    restore_well(full.database, full.folder / "restore.sql")
    (keyed,) = full.database.rows("insert into _cdc_keyed (t) values ('next') returning id")
    (empty,) = full.database.rows("insert into _cdc_empty (t) values ('next') returning id")
    (parts,) = full.database.rows("insert into _cdc_parts (k) values (2) returning id")
    assert (keyed, empty, parts) == ((7,), (3,), (6,))


def test_a_shared_sequence_goes_on_behind_the_rows_of_every_tables_delta(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("""
        create sequence loose; create table _cdc_a (id serial); create table _cdc_p (id serial) partition by list (id);
        create table _cdc_p_1 partition of _cdc_p default;
        create table _cdc_b (id int default nextval('_cdc_a_id_seq'), n int default nextval('loose'));
        insert into _cdc_a select; insert into _cdc_b select; insert into _cdc_p select;
    """)
    saved = guarded(database, tmp_path)
    for _ in range(3):
        database.execute("insert into _cdc_b select; insert into _cdc_p select")
    saved.save()
    database.execute("drop table _cdc_a, _cdc_b, _cdc_p; drop sequence loose")
    bring_back(database, saved.session)
    database.execute("insert into _cdc_a select; insert into _cdc_b select; insert into _cdc_p select")
    assert database.rows("select id from _cdc_a union all select id from _cdc_b order by 1") == [
        (n,) for n in range(1, 8)
    ]
    assert database.rows("select n from _cdc_b order by 1") == [(n,) for n in range(1, 6)]
    assert database.rows("select id from _cdc_p order by 1") == [(n,) for n in range(1, 6)]


def test_files_are_for_their_owner_alone_and_the_session_is_unchanged(small: Guarded) -> None:
    before = {path.name: path.read_bytes() for path in small.session.path.iterdir()}
    small.database.execute("insert into _cdc_k values (4, 'd')")
    assert not small.folder.exists()
    small.save()
    assert small.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in small.folder.iterdir()} == {0o600}
    assert {path.name: path.read_bytes() for path in small.session.path.iterdir()} == before
    assert "1 rows  newer than the backup" in (small.folder / "delta-summary.txt").read_text()


def test_of_rows_that_were_changed_or_deleted_the_latest_state_comes_back_and_nothing_goes(small: Guarded) -> None:
    small.database.execute("update _cdc_k set t = 'B' where id = 2; delete from _cdc_k where id = 3")
    small.database.execute("insert into _cdc_k values (4, 'd'); delete from _cdc_n where t = 'b'")
    small.database.execute("insert into _cdc_n values ('a'), ('c')")
    small.save()
    assert {part.kind for table in small.delta.tables for part in table.parts} == {"merged"}
    # It forbids to delete from a table without a replica identity, as one that is just being restored is.
    small.database.execute("drop table _cdc_k, _cdc_n; create publication everything for all tables")
    result = bring_back(small.database, small.session)
    assert rows(small.database, "_cdc_k") == ["(1,a)", "(2,B)", "(3,c)", "(4,d)"]
    assert rows(small.database, "_cdc_n") == ["(a)", "(a)", "(a)", "(b)", "(c)"]
    assert [(p.done.newer, p.done.updated) for p in result.plan or () if p.done] == [(1, 1), (2, 0)]


def test_a_table_that_outlived_the_statement_and_was_filled_anew_keeps_both(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create table _cdc_n (t text); create table _cdc_k (id int primary key)")
    saved = guarded(database, tmp_path)
    for values in ("('a'), ('a')", "('a'), ('b')"):
        database.execute(f"insert into _cdc_n values {values}")
        saved.save("_cdc_n")
        database.execute("truncate _cdc_n")
    assert len(saved.delta.tables[0].parts) == 2
    database.execute("drop table _cdc_n")
    bring_back(database, saved.session)
    assert rows(database, "_cdc_n") == ["(a)", "(a)", "(b)"]


def test_a_part_takes_the_place_of_one_that_it_begins_with(small: Guarded) -> None:
    for n in range(4, 7):
        small.database.execute(f"insert into _cdc_k values ({n}, 'x')")
        small.save("_cdc_k")
        small.save("_cdc_k")
    (table,) = small.delta.tables
    assert [part.rows for part in table.parts] == [3]
    files = {table.script, table.parts[0].file, "delta.json", "restore.sql", "delta-summary.txt"}
    assert {path.name for path in small.folder.iterdir()} == files


def test_another_command_of_the_same_run_goes_on_with_the_same_delta(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd'); insert into _cdc_n values ('z')")
    small.save("_cdc_k")
    small.writer = DeltaWriter(small.session)
    small.save("_cdc_n")
    before = small.state()
    small.database.execute("drop table _cdc_k, _cdc_n")
    bring_back(small.database, small.session)
    assert small.state() == before


@pytest.mark.parametrize("mode", RestoreMode)
def test_every_mode_knows_the_rows_of_the_delta(small: Guarded, mode: RestoreMode) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd'), (5, 'e'); insert into _cdc_n values ('z')")
    small.save()
    small.database.execute("truncate _cdc_n; delete from _cdc_k where id in (1, 4)")
    small.database.execute("insert into _cdc_k values (9, 'today')")
    bring_back(small.database, small.session, mode=mode)
    keyed, plain = ["(1,a)", "(2,b)", "(3,c)", "(4,d)", "(5,e)"], ["(a)", "(a)", "(b)", "(z)"]
    match mode:
        case RestoreMode.MISSING:
            assert (rows(small.database, "_cdc_k"), rows(small.database, "_cdc_n")) == ([*keyed, "(9,today)"], plain)
        case RestoreMode.REPLACE:
            assert (rows(small.database, "_cdc_k"), rows(small.database, "_cdc_n")) == (keyed, plain)
        case RestoreMode.ASIDE:
            schema = f"restored_{small.session.name.removeprefix('backup_')}"
            assert rows(small.database, sql.Identifier(schema, "_cdc_k")) == keyed
            assert rows(small.database, sql.Identifier(schema, "_cdc_n")) == plain
            assert rows(small.database, "_cdc_n") == []


def test_by_hand_a_table_without_a_key_that_is_there_is_refused_with_a_delta_too(small: Guarded) -> None:
    small.database.execute("insert into _cdc_n values ('z')")
    small.save()
    small.database.execute("delete from _cdc_n where t = 'z'; drop table _cdc_k")
    refused = restore(small.database, small.folder / "restore.sql")
    assert refused.returncode == 3
    assert "no key to tell which of them are missing; nothing was changed" in refused.stderr
    assert small.database.rows("select to_regclass('_cdc_k')") == [(None,)]


def test_without_delta_leaves_it_out(small: Guarded) -> None:
    before = small.state()
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    small.database.execute("drop table _cdc_k")
    bring_back(small.database, small.session, without_delta=True)
    assert small.state() == before


def test_rows_that_were_left_out_do_not_count_as_restored(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    small.database.execute("drop table _cdc_k")
    bring_back(small.database, small.session, without_delta=True)
    kept = Restore.read(small.session.path)
    assert kept is not None
    assert "public._cdc_k" not in kept.tables
    bring_back(small.database, small.session)
    kept = Restore.read(small.session.path)
    assert kept is not None
    assert "public._cdc_k" in kept.tables


def test_the_recipe_says_what_the_delta_brought(small: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    small.database.execute("drop table _cdc_k")
    bring_back(small.database, small.session)
    said = capsys.readouterr()
    told = " ".join((said.out + said.err).split())
    assert "and 1 row of public._cdc_k written after the backup, saved when the migration took the table" in told
    assert "public._cdc_k: is back, with 4 rows (1 of them written after the backup)" in told


changes = st.lists(
    st.tuples(st.sampled_from(["insert", "update", "delete", "save"]), st.integers(1, 6), st.sampled_from("abc")),
    max_size=8,
)


@given(changes)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_written_between_comes_back_and_nothing_less_than_the_session(
    embedded_server: Server, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, str]]
) -> None:
    with fresh_database(embedded_server) as database:
        database.execute("""
            create table _cdc_k (id int primary key, t text); insert into _cdc_k values (1, 'a'), (2, 'b'), (3, 'c');
            create table _cdc_n (id int, t text); insert into _cdc_n values (1, 'a'), (1, 'a'), (2, 'b');
        """)
        saved = guarded(database, tmp_path_factory.mktemp("property"))
        states = [saved.state()]
        for what, number, text in [*steps, ("save", 0, "")]:
            match what:
                case "insert":
                    database.execute(f"insert into _cdc_k values ({number}, '{text}') on conflict do nothing")
                    database.execute(f"insert into _cdc_n values ({number}, '{text}')")
                case "update":
                    database.execute(f"update _cdc_k set t = '{text}' where id = {number}")
                    database.execute(f"update _cdc_n set t = '{text}' where id = {number}")
                case "delete":
                    database.execute(f"delete from _cdc_k where id = {number}; delete from _cdc_n where id = {number}")
                case _:
                    saved.save()
                    states.append(saved.state())
        database.execute("drop table _cdc_k, _cdc_n")
        if saved.folder.exists():
            restore_well(database, saved.folder / "restore.sql")
        else:
            bring_back(database, saved.session)
        keys = dict(row[1:-1].split(",") for state in states for row in state["_cdc_k"])
        assert rows(database, "_cdc_k") == sorted(f"({key},{value})" for key, value in keys.items())
        most = {row: max(state["_cdc_n"].count(row) for state in states) for s in states for row in s["_cdc_n"]}
        assert rows(database, "_cdc_n") == sorted(row for row, number in most.items() for _ in range(number))


@pytest.mark.parametrize("what", ["a part", "a script", "a part gone", "delta.json", "no delta.json"])
def test_a_damaged_delta_is_refused_with_the_way_out(small: Guarded, what: str) -> None:
    before = small.state()
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    (table,) = small.delta.tables
    match what:
        case "a part":
            path = small.folder / table.parts[0].file
            path.write_bytes(path.read_bytes().replace(b"4\td", b"5\td"))
        case "a script":
            (small.folder / table.script).write_text("")
        case "a part gone":
            (small.folder / table.parts[0].file).unlink()
        case "delta.json":
            (small.folder / "delta.json").write_text('{"format_version": 2}')
        case _:
            (small.folder / "delta.json").unlink()
    small.database.execute("drop table _cdc_k")
    with pytest.raises(RestoreError, match="--without-delta"):
        bring_back(small.database, small.session)
    bring_back(small.database, small.session, without_delta=True)
    assert small.state() == before


def test_a_changed_row_in_a_part_is_refused_by_psql_too(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    path = small.folder / small.delta.tables[0].parts[0].file
    path.write_bytes(path.read_bytes().replace(b"4\td", b"5\td"))
    small.database.execute("drop table _cdc_k")
    refused = restore(small.database, small.folder / "restore.sql")
    assert (refused.returncode, "are not those that were saved; nothing was changed" in refused.stderr) == (3, True)
    assert small.database.rows("select to_regclass('_cdc_k')") == [(None,)]


def test_another_sessions_delta_is_refused(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    other = guarded(small.database, small.session.path.parent)
    small.folder.rename(other.folder)
    with pytest.raises(RestoreError, match=f"was written for the session {small.session.name}"):
        bring_back(small.database, other.session)


def test_a_session_whose_files_know_of_no_delta_is_never_restored_silently_without_it(small: Guarded) -> None:
    for path in small.session.path.glob("*.sql"):
        path.write_bytes(re.sub(rb"(?m)^\\ir :cdc_delta_\d+$", b"", path.read_bytes()))
    small.writer = DeltaWriter(small.session)
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    small.database.execute("drop table _cdc_k")
    with pytest.raises(RestoreError, match=r"would pass over public\._cdc_k"):
        bring_back(small.database, small.session)
    refused = restore(small.database, small.folder / "restore.sql")
    assert (refused.returncode, "know nothing of a delta" in refused.stderr) == (3, True)
    assert small.database.rows("select to_regclass('_cdc_k')") == [(None,)]


def test_a_table_that_was_left_out_by_hand_is_said_to_lack_its_delta(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    small.database.execute("drop table _cdc_k")
    oid = small.tables["_cdc_k"].oid
    told = restore(small.database, small.folder / "restore.sql", f"--set=cdc_skip_{oid}=on")
    assert (told.returncode, "WITHOUT the rows in the delta of public._cdc_k" in told.stderr) == (3, True)


def _rows_then(rows: bytes, then: object) -> Iterable[bytes]:
    yield rows
    if callable(then):
        then()


def test_rows_that_are_not_as_many_as_the_server_counted_are_refused(small: Guarded) -> None:
    with pytest.raises(BackupError, match="counted 2 rows, and 1 came"):
        small.writer.save(small.tables["_cdc_k"], [b"4\td\n"], rows=2, fingerprint="2:0:0", merged=False)
    assert not small.folder.exists()


def test_a_full_disk_leaves_what_was_saved_before(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_k (id int primary key, t text); create table _cdc_n (t text)")
    with small_disk(tmp_path / "disk", 400) as disk:
        saved = guarded(database, disk)
        database.execute("insert into _cdc_k values (1, 'a')")
        saved.save("_cdc_k")
        before = sorted(path.name for path in saved.folder.iterdir())
        database.execute("insert into _cdc_n select repeat('x', 1000) from generate_series(1, 1000)")
        with pytest.raises(BackupError, match="No space left on device"):
            saved.save("_cdc_n")
        assert sorted(path.name for path in saved.folder.iterdir()) == before
        database.execute("drop table _cdc_k, _cdc_n")
        bring_back(database, saved.session)
        assert rows(database, "_cdc_k") == ["(1,a)"]


def test_a_process_that_is_killed_leaves_what_it_had_saved(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save("_cdc_k")
    before = small.state()
    child = os.fork()
    if not child:
        killed = _rows_then(b"z\n", lambda: os.kill(os.getpid(), signal.SIGKILL))
        DeltaWriter(small.session).save(small.tables["_cdc_n"], killed, rows=1, fingerprint="1:0:0", merged=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    small.database.execute("drop table _cdc_k, _cdc_n")
    bring_back(small.database, small.session)
    assert small.state() == before


def test_a_drill_proves_session_and_delta(full: Guarded, tmp_path: Path) -> None:
    full.database.execute(MORE)
    full.database.execute("update _cdc_empty set t = 'changed' where id = 1; delete from _cdc_keyed where id = 1")
    full.save()
    proof = drill(full.database, full.session)
    assert (proof.problem, proof.delta, proof.delta_problem) == ("", True, "")


def test_a_drill_tells_a_delta_that_is_no_proof_from_the_session(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save("_cdc_k", false_print="1:2")
    with scratch_database(reached(small.database), "server") as scratch, pytest.raises(BackupError) as caught:
        drill_session(small.session, scratch=scratch, clients=clients_for(small.database), jobs=2)
    assert "its delta is not" in str(caught.value)
    assert "the rows of its delta are not those that were saved" in str(caught.value)


def test_a_proven_sessions_restore_has_the_sum_of_both_fingerprints(small: Guarded) -> None:
    drill(small.database, small.session)
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    before = small.state()
    small.database.execute("drop table _cdc_k")
    script = next(small.folder.glob("_cdc_k.*.1.sql"))
    assert "cdc_sum_" in script.read_text()
    bring_back(small.database, small.session)
    assert small.state() == before


def test_what_is_not_the_sum_of_both_fingerprints_is_refused(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    small.database.execute("drop table _cdc_k")
    wrong = f"--set=cdc_sum_{small.tables['_cdc_k'].oid}=4:1:2"
    refused = restore(small.database, small.folder / "restore.sql", wrong)
    assert (refused.returncode, "with its delta it is not what it was; nothing" in refused.stderr) == (3, True)
    assert small.database.rows("select to_regclass('_cdc_k')") == [(None,)]


def test_two_rows_that_no_unique_index_takes_are_refused_and_come_back_aside(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create table _cdc_k (id int primary key, t text unique); insert into _cdc_k values (1, 'a')")
    saved = guarded(database, tmp_path)
    database.execute("delete from _cdc_k; insert into _cdc_k values (2, 'a')")
    saved.save()
    database.execute("drop table _cdc_k")
    with pytest.raises(RestoreError, match="--mode aside"):
        bring_back(database, saved.session)
    bring_back(database, saved.session, mode=RestoreMode.ASIDE)
    schema = f"restored_{saved.session.name.removeprefix('backup_')}"
    assert rows(database, sql.Identifier(schema, "_cdc_k")) == ["(1,a)", "(2,a)"]


def test_a_delta_is_listed_and_goes_with_its_session_and_one_without_is_told_and_stays(
    small: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small.session.path.parent
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    newer = write(small.database, root)
    review = review_sessions(root, retention_days=0, keep_last=0)
    show_sessions(Report(), root, review)
    assert "+1 row in its delta" in " ".join("".join(capsys.readouterr()).split())
    assert prune_sessions(review) == (small.session.path,)
    assert list(root.iterdir()) == [newer.path]
    lonely = root / "backup_2025-01-01T00-00-00-000Z.delta"
    lonely.mkdir()
    assert lonely_deltas(root) == (lonely,)
    guarded(small.database, root)
    review = review_sessions(root, retention_days=0, keep_last=0)
    show_sessions(Report(), root, review)
    assert lonely.name in " ".join("".join(capsys.readouterr()).split())
    prune_sessions(review)
    assert lonely.exists()


def test_a_session_whose_delta_cannot_be_read_is_kept(small: Guarded) -> None:
    small.database.execute("insert into _cdc_k values (4, 'd')")
    small.save()
    (small.folder / "delta.json").write_text("{")
    (kept,) = review_sessions(small.session.path.parent, retention_days=0, keep_last=0)
    assert "delta.json cannot be read" in kept.reason
    assert prune_sessions([kept]) == ()
