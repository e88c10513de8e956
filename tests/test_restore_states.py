"""Restore, in every state that a migration can leave: what was lost is back, and nothing else was touched."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from backup.errors import RestoreError
from backup.postgres.embedded import Server
from backup.result import State
from backup.session.restore import RestoreMode
from tests.restoring import bring_back, done, everything, proven, stands
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import fresh_role, reached, restore, restore_well, rows, write

CHANGES = """
    create table users (id int primary key, name text); insert into users values (1, 'a'), (2, 'b');
    create table _cdc_users (id serial primary key, user_id int references users, op text not null, was jsonb);
    insert into _cdc_users (user_id, op, was) values (1, 'I', null), (1, 'U', '{"a": 1}'), (2, 'I', null);
    create table _cdc_log (a int, b text); insert into _cdc_log values (1, 'x'), (1, 'x'), (null, null), (2, '');
"""


@pytest.fixture
def changes(embedded_server: Server) -> Iterator[FreshDatabase]:
    """A database with CDC tables of both sorts, with a key and without."""
    with fresh_database(embedded_server) as database:
        database.execute(CHANGES)
        yield database


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    with fresh_role(server) as name:
        yield name


# What a migration does, and what may differ afterwards: nothing.
LOSSES = {
    "one table dropped": "drop table _cdc_log",
    "all dropped": "drop table _cdc_users, _cdc_log",
    "emptied": "truncate _cdc_users, _cdc_log",
    "emptied by a cascade": "truncate users cascade; insert into users values (1, 'a'), (2, 'b'); truncate _cdc_log",
    "rows deleted": "delete from _cdc_users where id > 1; delete from _cdc_log where a = 1 or b is null",
    "one of two rows that are alike deleted": "delete from _cdc_log where ctid = (select min(ctid) from _cdc_log)",
    "nothing": "select",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_lost_is_back(database: FreshDatabase, tmp_path: Path, loss: str) -> None:
    database.execute(CHANGES)
    before = everything(database)
    session = proven(database, tmp_path)
    database.execute(sql.SQL(LOSSES[loss]))
    bring_back(database, session)
    assert everything(database) == before


def test_restore_that_finds_nothing_missing_changes_nothing_and_says_so(
    changes: FreshDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = write(changes, tmp_path)
    result = bring_back(changes, session)
    assert done(result) == {"_cdc_users": (0, 0, 0), "_cdc_log": (0, 0, 0)}
    assert "nothing was missing" in capsys.readouterr().out


def test_rows_that_were_changed_or_added_are_kept_and_counted(
    changes: FreshDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = write(changes, tmp_path)
    changes.execute("""
        update _cdc_users set op = 'changed' where id = 1; delete from _cdc_users where id = 2;
        insert into _cdc_users (op) values ('added'); insert into _cdc_log values (3, 'added');
    """)
    result = bring_back(changes, session)
    assert done(result) == {"_cdc_users": (1, 1, 0), "_cdc_log": (0, 0, 0)}
    assert changes.rows("select id, op from _cdc_users order by id") == [
        (1, "changed"),
        (2, "U"),
        (3, "I"),
        (4, "added"),
    ]
    assert (3, "added") in changes.rows("select * from _cdc_log")
    said = capsys.readouterr().out
    assert "public._cdc_users: 1 row came back, 1 row differ from the backup and were kept" in said
    told = [t for t in result.as_json(0, "")["restored"] if t["name"] == "_cdc_users"]
    assert (told[0]["rows_added"], told[0]["rows_kept_different"], told[0]["rows_removed"]) == (1, 1, 0)


def test_without_a_key_as_many_alike_rows_come_back_as_are_missing(changes: FreshDatabase, tmp_path: Path) -> None:
    session = write(changes, tmp_path)
    changes.execute("delete from _cdc_log; insert into _cdc_log values (1, 'x'), (7, null), (null, null), (null, null)")
    assert done(bring_back(changes, session, "_cdc_log")) == {"_cdc_log": (2, 0, 0)}
    assert rows(changes, "_cdc_log") == ["(,)", "(,)", "(1,x)", "(1,x)", '(2,"")', "(7,)"]


# What a migration makes of the columns, and whether the rows of the backup still fit.
FITTING = {
    "a column added": "alter table _cdc_users add more int default 7",
    "a column added that must be there, with a default": "alter table _cdc_users add more int not null default 7",
    "another order": """
        drop table _cdc_users; create table _cdc_users (was jsonb, op text not null, user_id int, id int primary key)
    """,
    "the key gone": "alter table _cdc_users drop constraint _cdc_users_pkey; truncate _cdc_users",
}
NOT_FITTING = {
    "a column dropped": "alter table _cdc_users drop was",
    "a column renamed": "alter table _cdc_users rename was to old",
    "a column retyped": "alter table _cdc_users alter op type varchar(9)",
    "a column added that must be there": "truncate _cdc_users; alter table _cdc_users add more int not null",
    "a view of that name": "alter table _cdc_users rename to kept; create view _cdc_users as select * from kept",
    "a materialized view": "drop table _cdc_users; create materialized view _cdc_users as select 1 as id",
    "a partitioned table": """
        drop table _cdc_users; create table _cdc_users (id int, user_id int, op text, was jsonb) partition by hash (id)
    """,
}
ANY_STATE = {**NOT_FITTING, "gone": "drop table _cdc_users", "there": "select"}


@pytest.mark.parametrize("change", FITTING)
def test_rows_come_back_where_their_columns_still_fit(changes: FreshDatabase, tmp_path: Path, change: str) -> None:
    session = write(changes, tmp_path)
    expected = changes.rows("select id, user_id, op, was::text from _cdc_users order by id")
    changes.execute(sql.SQL(FITTING[change]))
    changes.execute("delete from _cdc_users where id = 2")
    bring_back(changes, session, "_cdc_users")
    assert changes.rows("select id, user_id, op, was::text from _cdc_users order by id") == expected


@pytest.mark.parametrize("change", NOT_FITTING)
@pytest.mark.parametrize("mode", [RestoreMode.MISSING, RestoreMode.REPLACE])
def test_rows_that_do_not_fit_are_refused_with_the_way_out(
    changes: FreshDatabase, tmp_path: Path, change: str, mode: RestoreMode
) -> None:
    session = write(changes, tmp_path)
    changes.execute(sql.SQL(NOT_FITTING[change]))
    before = everything(changes)
    with pytest.raises(RestoreError, match="aside") as raised:
        bring_back(changes, session, mode=mode, even_renamed=True)
    assert "_cdc_users" in raised.value.what
    assert everything(changes) == before


@pytest.mark.parametrize("change", ANY_STATE)
def test_aside_works_whatever_the_table_looks_like(changes: FreshDatabase, tmp_path: Path, change: str) -> None:
    session = write(changes, tmp_path)
    expected = {table: rows(changes, table) for table in ("_cdc_users", "_cdc_log")}
    changes.execute(sql.SQL(ANY_STATE[change]))
    before = everything(changes)
    bring_back(changes, session, mode=RestoreMode.ASIDE)
    schema = f"restored_{session.name.removeprefix('backup_')}"
    for table, held in expected.items():
        assert rows(changes, sql.Identifier(schema, table)) == held
    changes.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
    assert everything(changes) == before


def test_aside_a_second_time_is_refused_and_changes_nothing(changes: FreshDatabase, tmp_path: Path) -> None:
    session = write(changes, tmp_path)
    bring_back(changes, session, mode=RestoreMode.ASIDE)
    before = everything(changes)
    with pytest.raises(RestoreError, match="is there already, from another restore; nothing was changed"):
        bring_back(changes, session, mode=RestoreMode.ASIDE)
    assert everything(changes) == before


def test_aside_keeps_tables_of_the_same_name_and_empty_ones_apart(changes: FreshDatabase, tmp_path: Path) -> None:
    changes.execute("""
        create schema attic; create table attic._cdc_log (other int); insert into attic._cdc_log values (9);
        create table _cdc_empty (a int);
    """)
    session = write(changes, tmp_path)
    bring_back(changes, session, mode=RestoreMode.ASIDE)
    schema = f"restored_{session.name.removeprefix('backup_')}"
    assert rows(changes, sql.Identifier(schema, "attic._cdc_log")) == ["(9)"]
    assert len(rows(changes, sql.Identifier(schema, "_cdc_log"))) == 4
    assert rows(changes, sql.Identifier(schema, "_cdc_empty")) == []


@pytest.mark.parametrize("mode", RestoreMode)
@pytest.mark.parametrize(
    "change",
    [
        "alter type op rename value 'it''s gone' to 'other'",
        "drop table _cdc_ops; drop type op; create type op as enum ('I'); create table _cdc_ops (id int, o op)",
    ],
    ids=["renamed", "gone"],
)
def test_a_label_that_is_gone_is_named_with_the_statement_that_lets_the_rows_in(
    changes: FreshDatabase, tmp_path: Path, change: LiteralString, mode: RestoreMode
) -> None:
    changes.execute("""
        create type op as enum ('I', 'it''s gone'); create table _cdc_ops (id int, o op);
        insert into _cdc_ops values (1, 'I'), (2, 'it''s gone');
    """)
    session = write(changes, tmp_path)
    expected = rows(changes, "_cdc_ops")
    changes.execute(change)
    before = everything(changes)
    with pytest.raises(RestoreError, match="invalid input value for enum") as raised:
        bring_back(changes, session, "_cdc_ops", mode=mode)
    assert everything(changes) == before
    statement = "ALTER TYPE public.op ADD VALUE 'it''s gone'"
    assert statement in raised.value.remedy
    changes.execute(statement)
    bring_back(changes, session, "_cdc_ops", mode=mode)
    if mode is RestoreMode.ASIDE:
        schema = f"restored_{session.name.removeprefix('backup_')}"
        assert rows(changes, sql.Identifier(schema, "_cdc_ops")) == expected
    else:
        assert set(expected) <= set(rows(changes, "_cdc_ops"))


# What a migration makes of a table that was empty, so that nothing is missing in it.
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("alter table _cdc_empty drop t", "lacks t text"),
        ("drop table _cdc_empty; create view _cdc_empty as select 1 as a", "is a view now"),
    ],
)
def test_of_a_changed_table_that_was_empty_nothing_is_done_and_that_is_said(
    changes: FreshDatabase, tmp_path: Path, change: LiteralString, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes.execute("create table _cdc_empty (a int, t text)")
    session = write(changes, tmp_path)
    changes.execute(change)
    before = everything(changes)
    bring_back(changes, session)
    assert everything(changes) == before
    said = capsys.readouterr().out
    assert "refused" not in said
    assert "nothing: the backup has no rows of it" in said
    assert f"public._cdc_empty: left as it is: it {why}, and the backup has no rows of it" in said
    assert "Restored 2 tables" in said
    with pytest.raises(RestoreError, match="The columns have changed since"):
        bring_back(changes, session, mode=RestoreMode.REPLACE)


@pytest.mark.parametrize("schema", ["s" * 55, "ä" * 31], ids=["ascii", "two bytes a character"])
def test_aside_keeps_tables_apart_whose_names_are_too_long_together(
    changes: FreshDatabase, tmp_path: Path, schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [sql.Identifier(schema, f"_cdc_{'n' * 50}_{number}") for number in (1, 2)]
    changes.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    for number, table in enumerate(tables):
        changes.execute(sql.SQL("create table {} (a int); insert into {} values ({})").format(table, table, number))
    session = write(changes, tmp_path)
    bring_back(changes, session, mode=RestoreMode.ASIDE)
    aside = f"restored_{session.name.removeprefix('backup_')}"
    names = [
        name
        for (name,) in changes.rows("select tablename::text from pg_tables where schemaname = %s", [aside])
        if name.startswith(schema[:20])
    ]
    assert sorted(row for name in names for row in rows(changes, sql.Identifier(aside, name))) == ["(0)", "(1)"]
    said = capsys.readouterr().out
    assert all(f"{aside}.{name}: 1 row" in said for name in names)


def test_aside_children_do_not_show_up_in_their_parent(changes: FreshDatabase, tmp_path: Path) -> None:
    changes.execute("""
        create table _cdc_base (id int); create table _cdc_child (more int) inherits (_cdc_base);
        insert into _cdc_base values (1); insert into _cdc_child values (2, 3);
        create table _cdc_parts (id int) partition by list (id); create table _cdc_part partition of _cdc_parts default;
        insert into _cdc_parts values (4);
    """)
    session = write(changes, tmp_path)
    bring_back(changes, session, mode=RestoreMode.ASIDE)
    assert changes.rows("select id from _cdc_base order by id") == [(1,), (2,)]
    assert changes.rows("select id from _cdc_parts") == [(4,)]
    schema = f"restored_{session.name.removeprefix('backup_')}"
    assert rows(changes, sql.Identifier(schema, "_cdc_child")) == ["(2,3)"]
    assert rows(changes, sql.Identifier(schema, "_cdc_part")) == ["(4)"]


def test_replace_makes_the_table_what_the_backup_holds(changes: FreshDatabase, tmp_path: Path) -> None:
    session = write(changes, tmp_path)
    expected = rows(changes, "_cdc_users"), rows(changes, "_cdc_log")
    changes.execute("""
        update _cdc_users set op = 'changed' where id = 1; delete from _cdc_users where id = 2;
        insert into _cdc_users (op) values ('added');
        insert into _cdc_log values (1, 'x'), (3, 'added'), (null, null); delete from _cdc_log where a = 2;
    """)
    result = bring_back(changes, session, mode=RestoreMode.REPLACE)
    assert done(result) == {"_cdc_users": (2, 0, 2), "_cdc_log": (1, 0, 3)}
    assert (rows(changes, "_cdc_users"), rows(changes, "_cdc_log")) == expected


def test_replace_empties_a_table_that_was_empty(changes: FreshDatabase, tmp_path: Path) -> None:
    changes.execute("create table _cdc_empty (a int primary key)")
    session = write(changes, tmp_path)
    changes.execute("insert into _cdc_empty values (1)")
    assert done(bring_back(changes, session, "_cdc_empty"))["_cdc_empty"] == (0, 0, 0)
    assert rows(changes, "_cdc_empty") == ["(1)"]
    assert done(bring_back(changes, session, "_cdc_empty", mode=RestoreMode.REPLACE))["_cdc_empty"] == (0, 0, 1)
    assert rows(changes, "_cdc_empty") == []


@pytest.mark.parametrize("action", ["cascade", "set null", "set default"])
def test_replace_never_reaches_into_other_tables(changes: FreshDatabase, tmp_path: Path, action: str) -> None:
    changes.execute(
        sql.SQL("create table orders (change int default 1 references _cdc_users on delete {})").format(sql.SQL(action))
    )
    session = write(changes, tmp_path)
    bring_back(changes, session, mode=RestoreMode.REPLACE)  # where no row has to go
    changes.execute("insert into _cdc_users (op) values ('added'); insert into orders select max(id) from _cdc_users")
    before = everything(changes)
    with pytest.raises(RestoreError, match=r"would take or change rows of public\.orders; nothing was changed"):
        bring_back(changes, session, mode=RestoreMode.REPLACE)
    assert everything(changes) == before


def test_a_renamed_table_gets_no_double_unless_told(changes: FreshDatabase, tmp_path: Path) -> None:
    session = write(changes, tmp_path)
    expected = rows(changes, "_cdc_log")
    changes.execute("alter table _cdc_log rename to log; delete from log")
    before = everything(changes)
    with pytest.raises(RestoreError, match=r"public\._cdc_log is public\.log now"):
        bring_back(changes, session)
    assert everything(changes) == before
    result = bring_back(changes, session, even_renamed=True)
    assert {plan.saved.name: plan.state for plan in result.plan or ()}["_cdc_log"] is State.RENAMED
    assert rows(changes, "_cdc_log") == expected


def test_a_renamed_table_that_kept_its_indexes_names_is_left_alone(changes: FreshDatabase, tmp_path: Path) -> None:
    session = write(changes, tmp_path)
    changes.execute("alter table _cdc_users rename to users_log")
    before = everything(changes)
    with pytest.raises(RestoreError, match="already exists") as raised:
        bring_back(changes, session, even_renamed=True)
    assert "--mode aside brings the rows into a schema of their own" in raised.value.remedy
    assert everything(changes) == before


def test_the_plan_says_how_each_table_stands_and_changes_nothing(
    changes: FreshDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes.execute("create table _cdc_more (a int); create table _cdc_seen (a int); insert into _cdc_more values (1)")
    session = write(changes, tmp_path)
    changes.execute("""
        drop table _cdc_log; alter table _cdc_users drop was; alter table _cdc_more rename to more;
        drop table _cdc_seen; create view _cdc_seen as select 1 as a;
    """)
    before = everything(changes)
    result = bring_back(changes, session, mode=RestoreMode.ASIDE, plan_only=True)
    assert {plan.saved.name: plan.state for plan in result.plan or ()} == {
        "_cdc_log": State.GONE,
        "_cdc_users": State.CHANGED,
        "_cdc_more": State.RENAMED,
        "_cdc_seen": State.CHANGED,
    }
    assert everything(changes) == before
    assert result.session == session
    assert "lacks was jsonb" in capsys.readouterr().out


def test_in_another_database_the_numbers_of_things_mean_nothing(changes: FreshDatabase, tmp_path: Path) -> None:
    """There an OID of the backup's is that of an index, of a view, of a table that is nobody's business."""
    session = write(changes, tmp_path)
    changes.execute("""
        drop table _cdc_users, _cdc_log; create table foreigner (a int unique); create view v as select * from foreigner
    """)
    for name in ("foreigner", "foreigner_a_key", "v"):
        ((oid,),) = changes.rows("select %s::regclass::oid::int8", [name])
        tables = tuple(table.model_copy(update={"oid": oid}) for table in session.manifest.tables)
        elsewhere = replace(
            session, manifest=session.manifest.model_copy(update={"tables": tables, "database_id": "another"})
        )
        result = bring_back(changes, elsewhere, plan_only=True)
        assert [plan.state for plan in result.plan or ()] == [State.GONE, State.GONE]


def test_keys_among_the_tables_wait_until_all_rows_are_back(database: FreshDatabase, tmp_path: Path) -> None:
    """Emptied tables with keys into each other, in whatever order they are filled again."""
    database.execute("""
        create table _cdc_a (id int primary key, b int, up int constraint up references _cdc_a on delete cascade);
        create table _cdc_b (id int primary key, a int references _cdc_a deferrable);
        alter table _cdc_a add constraint b foreign key (b) references _cdc_b;
        comment on constraint b on _cdc_a is 'there and back';
        create table _cdc_parts (id int, a int references _cdc_a, primary key (id)) partition by hash (id);
        create table _cdc_part partition of _cdc_parts for values with (modulus 1, remainder 0);
        begin; set constraints all deferred;
        insert into _cdc_a values (1, null, 2), (2, null, 1); insert into _cdc_b values (1, 2);
        update _cdc_a set b = 1; insert into _cdc_parts values (1, 1), (2, 2); commit;
    """)
    before = everything(database)
    session = write(database, tmp_path)
    database.execute("truncate _cdc_a, _cdc_b, _cdc_parts")
    bring_back(database, session)
    assert everything(database) == before
    database.execute("delete from _cdc_parts; update _cdc_a set b = null; delete from _cdc_b")
    bring_back(database, session, mode=RestoreMode.REPLACE)
    assert everything(database) == before


def test_a_key_into_a_table_that_alone_was_dropped_is_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_a (id int primary key); insert into _cdc_a values (1);
        create table _cdc_b (id int primary key, a int constraint "it's" references _cdc_a);
        comment on constraint "it's" on _cdc_b is 'a key'; insert into _cdc_b values (1, 1);
        alter table _cdc_b enable row level security; create policy p on _cdc_b using (id in (select id from _cdc_a));
        comment on policy p on _cdc_b is 'a policy';
        create rule r as on delete to _cdc_b do also delete from _cdc_a where id = old.a;
    """)
    before = everything(database)
    session = write(database, tmp_path)
    for drop in ("drop table _cdc_a cascade", "drop table _cdc_b", "drop table _cdc_a, _cdc_b"):
        database.execute(sql.SQL(drop))
        bring_back(database, session)
        assert everything(database) == before


def test_rows_whose_own_parents_are_gone_come_back_and_their_key_is_unproven(
    changes: FreshDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes.execute("comment on constraint _cdc_users_user_id_fkey on _cdc_users is 'whose'")
    expected = rows(changes, "_cdc_users")
    session = write(changes, tmp_path)
    changes.execute("truncate users cascade")
    bring_back(changes, session)
    assert rows(changes, "_cdc_users") == expected
    assert changes.rows("""
        select convalidated, obj_description(oid, 'pg_constraint') from pg_constraint where contype = 'f'
    """) == [(False, "whose")]
    assert "points to are gone, so it came back NOT VALID: _cdc_users_user_id_fkey" in capsys.readouterr().out


def test_what_its_rows_violate_is_there_again_unproven(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_t (id int, during int4range, exclude using gist (during with &&),
            constraint waits unique (id) deferrable initially deferred);
        insert into _cdc_t values (-1, '[1,2)'), (1, '[2,3)');
        alter table _cdc_t add constraint positive check (id > 0) not valid;
        comment on constraint positive on _cdc_t is 'one day';
    """)
    before = everything(database)
    session = write(database, tmp_path)
    database.execute("drop table _cdc_t")
    bring_back(database, session)
    assert everything(database) == before
    database.execute("delete from _cdc_t where id = 1")
    bring_back(database, session)
    assert everything(database) == before


def test_a_row_that_violates_a_check_of_a_living_table_is_refused(changes: FreshDatabase, tmp_path: Path) -> None:
    session = write(changes, tmp_path)
    changes.execute("truncate _cdc_log; alter table _cdc_log add check (a is not null)")
    before = everything(changes)
    with pytest.raises(RestoreError, match="violates check constraint"):
        bring_back(changes, session)
    assert everything(changes) == before


SEQUENCES = """
    create table _cdc_t (id int primary key, a int generated always as identity (start 100 increment 5),
        b int generated by default as identity (start -1 increment -3 minvalue -900 maxvalue -1), c serial);
    insert into _cdc_t (id) select generate_series(1, 4);
"""


@pytest.mark.parametrize("loss", ["truncate _cdc_t restart identity", "drop table _cdc_t", "delete from _cdc_t"])
def test_the_next_numbers_follow_those_of_the_backup(database: FreshDatabase, tmp_path: Path, loss: str) -> None:
    database.execute(SEQUENCES)
    session = write(database, tmp_path)
    database.execute(sql.SQL(loss))
    bring_back(database, session)
    database.execute("insert into _cdc_t (id) values (5)")
    assert database.rows("select a, b, c from _cdc_t order by id") == [
        (100, -1, 1), (105, -4, 2), (110, -7, 3), (115, -10, 4), (120, -13, 5),
    ]  # fmt: skip


def test_a_table_made_anew_goes_on_after_the_rows_that_came_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(SEQUENCES)
    session = write(database, tmp_path)
    database.execute("drop table _cdc_t")
    database.execute(SEQUENCES.partition("insert")[0])
    bring_back(database, session)
    database.execute("insert into _cdc_t (id) values (5)")
    assert database.rows("select a, b, c from _cdc_t where id = 5") == [(120, -13, 5)]


def test_a_sequence_that_is_further_on_stays_there(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(SEQUENCES)
    session = write(database, tmp_path)
    database.execute("insert into _cdc_t (id) values (5); delete from _cdc_t")
    bring_back(database, session)
    assert stands(database, sql.Identifier("public", "_cdc_t_a_seq")) == [(120, True)]
    assert stands(database, sql.Identifier("public", "_cdc_t_b_seq")) == [(-13, True)]


def test_values_that_nobody_may_write_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_t (id int generated always as identity primary key,
            twice int generated always as (n * 2) stored, n int);
        insert into _cdc_t (n) values (1), (2), (3);
    """)
    session = write(database, tmp_path)
    database.execute("delete from _cdc_t where n > 1")
    bring_back(database, session)
    assert rows(database, "_cdc_t") == ["(1,2,1)", "(2,4,2)", "(3,6,3)"]


MEDDLING = """
    create table other (id int);
    create table _cdc_t (id int primary key, a text); create table _cdc_loose (a int);
    insert into _cdc_t select g, 'x' from generate_series(1, 5) g; insert into _cdc_loose select generate_series(1, 5);
    create function change() returns trigger language plpgsql as 'begin new.a := 9; return new; end';
    create function swallow() returns trigger language plpgsql as 'begin return null; end';
    create function refuse() returns trigger language plpgsql as $$begin raise 'never'; end$$;
    create function double() returns trigger language plpgsql as
        'begin insert into other values (new.id); return new; end';
    create trigger change before insert on _cdc_t for each row execute function change();
    create trigger double after insert on _cdc_t for each row execute function double();
    create trigger swallow before insert on _cdc_loose for each row execute function swallow();
    create trigger refuse before delete on _cdc_t for each statement execute function refuse();
    create trigger refused after insert on _cdc_loose for each statement execute function refuse();
    create constraint trigger late after insert on _cdc_t deferrable initially deferred
        for each row execute function refuse();
    create rule instead as on insert to _cdc_t do instead nothing;
    create rule also as on insert to _cdc_loose do also insert into other values (1);
    alter table _cdc_t enable always trigger change, enable replica trigger double, disable trigger refuse;
    alter table _cdc_t enable always rule instead; alter table _cdc_loose disable rule also;
"""


def _enabled(database: FreshDatabase) -> list[tuple[object, ...]]:
    return database.rows("""
        select tgname::text, tgenabled::text from pg_trigger where not tgisinternal
        union all select rulename::text, ev_enabled::text from pg_rewrite where ev_type <> '1' order by 1
    """)


@pytest.mark.parametrize("mode", [RestoreMode.MISSING, RestoreMode.REPLACE])
@pytest.mark.parametrize(
    "loss",
    [
        "alter table _cdc_t disable trigger user; alter table _cdc_t disable rule instead;"
        "delete from _cdc_t where id > 2; delete from _cdc_loose where a < 4;"
        "alter table _cdc_t enable always trigger change, enable replica trigger double, enable trigger late,"
        " enable always rule instead;",
        "drop table _cdc_t, _cdc_loose",
    ],
    ids=["rows deleted", "dropped"],
)
def test_triggers_and_rules_do_not_meddle_and_stay_as_they_were(
    role: str, database: FreshDatabase, tmp_path: Path, loss: str, mode: RestoreMode
) -> None:
    """As the tables' owner, who is no superuser."""
    database.execute(MEDDLING)
    database.execute(
        sql.SQL("""
            alter table _cdc_t owner to {role}; alter table _cdc_loose owner to {role};
            grant all on schema public to {role}
        """).format(role=sql.Identifier(role))
    )
    before, enabled = everything(database), _enabled(database)
    session = write(database, tmp_path)
    database.execute(sql.SQL(loss))
    bring_back(reached(database, user=role), session, mode=mode)
    assert everything(database) == before
    assert _enabled(database) == enabled
    assert rows(database, "other") == []


def test_rows_that_row_security_hides_come_back_to_the_owner(
    role: str, database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute(
        sql.SQL("""
            create table _cdc_t (id int primary key, a text); insert into _cdc_t values (1, 'x'), (2, 'y');
            alter table _cdc_t enable row level security, force row level security;
            create policy p on _cdc_t using (id = 1); alter table _cdc_t owner to {role};
            grant all on schema public to {role}
        """).format(role=sql.Identifier(role))
    )
    before = everything(database)
    session = write(database, tmp_path)
    for loss in ("delete from _cdc_t", "delete from _cdc_t where id = 2", "drop table _cdc_t"):
        database.execute(sql.SQL(loss))
        # The plan counts the rows of today, which the owner is not shown: it is brought back by hand's way.
        bring_back(reached(database, user=role), session)
        assert everything(database) == before


def test_who_may_not_is_told_why_and_changes_nothing(role: str, database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(
        sql.SQL("""
            create table _cdc_t (id int primary key); insert into _cdc_t values (1), (2);
            create table _cdc_gone (id int); insert into _cdc_gone values (1);
            grant select, insert, delete on _cdc_t to {role}
        """).format(role=sql.Identifier(role))
    )
    session = write(database, tmp_path)
    database.execute("delete from _cdc_t where id = 1; drop table _cdc_gone")
    before = everything(database)
    with pytest.raises(RestoreError, match="must be owner of table _cdc_t"):
        bring_back(reached(database, user=role), session, "_cdc_t")
    database.execute("revoke create on schema public from public")
    with pytest.raises(RestoreError, match="permission denied for schema public"):
        bring_back(reached(database, user=role), session, "_cdc_gone")
    assert everything(database) == before


def test_owners_and_grants_that_do_not_exist_here_are_said_and_the_rest_is_back(
    machine_server: Server, embedded_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_role(machine_server) as owner, fresh_role(machine_server) as reader:
        names = {"owner": sql.Identifier(f"absent {owner}"), "reader": sql.Identifier(f"absent {reader}")}
        with fresh_database(machine_server) as database, fresh_database(embedded_server) as elsewhere:
            database.execute(sql.SQL("create role {owner}; create role {reader}").format(**names))
            database.execute(
                sql.SQL("""
                    create schema audit; create table audit._cdc_t (id serial primary key, a text);
                    insert into audit._cdc_t (a) values ('x'); alter table audit._cdc_t owner to {owner};
                    grant select on audit._cdc_t to {reader}; grant select (a) on audit._cdc_t to public;
                    create policy p on audit._cdc_t to {reader}; alter schema audit owner to {owner};
                    create view audit.v as select * from audit._cdc_t; grant select on audit.v to {reader};
                """).format(**names)
            )
            session = write(database, tmp_path)
            bring_back(elsewhere, session)
            assert elsewhere.rows("select * from audit._cdc_t") == [(1, "x")]
            assert elsewhere.rows("select * from audit.v") == [(1, "x")]
            granted = "select has_column_privilege('pg_monitor', 'audit._cdc_t', 'a', 'select')"
            assert elsewhere.rows(granted) == [(True,)]
            said = capsys.readouterr().out
            assert f'role "absent {owner}" does not exist' in said
            assert f'role "absent {reader}" does not exist' in said
        with psycopg.connect(machine_server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("drop role {owner}").format(**names))
            connection.execute(sql.SQL("drop role {reader}").format(**names))


def test_a_leaf_or_all_of_a_partitioned_table_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_events (id int, at int, primary key (id, at)) partition by list (at);
        create table _cdc_1 partition of _cdc_events for values in (1);
        create table kept partition of _cdc_events for values in (2) partition by list (id);
        create table kept_1 partition of kept default;
        create table _cdc_rest partition of _cdc_events default;
        create index on _cdc_events (at);
        insert into _cdc_events select g, g % 4 from generate_series(1, 40) g;
    """)
    before = everything(database)
    session = write(database, tmp_path)
    for loss in (
        "drop table _cdc_1",
        "drop table _cdc_1, _cdc_rest",
        "drop table _cdc_events",
        "alter table _cdc_events detach partition _cdc_1; drop table _cdc_1",
        "drop table kept",
        "truncate _cdc_events",
        "truncate kept",
        "delete from _cdc_events where id > 7",
    ):
        database.execute(sql.SQL(loss))
        bring_back(database, session)
        assert everything(database) == before, loss


def test_a_partition_whose_place_is_taken_is_not_said_to_be_attached_again(
    embedded_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_database(embedded_server) as database:
        database.execute("""
            create table _cdc_p (id int) partition by list (id);
            create table _cdc_1 partition of _cdc_p for values in (1);
            insert into _cdc_p values (1);
        """)
        session = write(database, tmp_path)
        database.execute("alter table _cdc_p detach partition _cdc_1")
        bring_back(database, session)
        assert "attached again: public._cdc_1" in capsys.readouterr().out
        database.execute("alter table _cdc_p detach partition _cdc_1")
        database.execute("create table other partition of _cdc_p for values in (1)")
        bring_back(database, session)
        said = capsys.readouterr().out
        assert "attached again" not in said
        assert "not brought back: " in said


def test_partitions_of_partitions_come_back_whatever_numbers_they_have(database: FreshDatabase, tmp_path: Path) -> None:
    for number in range(12):
        database.execute(
            sql.SQL("""
                create table {root} (id int, at int, primary key (id, at)) partition by list (at);
                create table {middle} partition of {root} for values in (2) partition by list (id);
                create table {leaf} partition of {middle} default; insert into {root} values (1, 2);
            """).format(
                root=sql.Identifier(f"_cdc_{number}"),
                middle=sql.Identifier(f"middle_{number}"),
                leaf=sql.Identifier(f"leaf_{number}"),
            )
        )
    before = everything(database)
    session = write(database, tmp_path)
    database.execute(sql.SQL(f"drop table {', '.join(f'middle_{number}' for number in range(12))}"))
    bring_back(database, session)
    assert everything(database) == before


def test_inheritance_comes_back_from_the_child_up_or_the_parent_down(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_base (id int primary key, a text); create table child (more int) inherits (_cdc_base);
        create table grandchild () inherits (child);
        insert into _cdc_base values (1, 'x'); insert into child values (1, 'y', 2), (1, 'y', 2);
        insert into grandchild values (3, 'z', 4);
    """)
    before = everything(database)
    session = write(database, tmp_path)
    for loss in (
        "drop table child cascade",
        "drop table _cdc_base cascade",
        "truncate _cdc_base",
        "truncate only child",
    ):
        database.execute(sql.SQL(loss))
        bring_back(database, session)
        assert everything(database) == before, loss


# Tables that have their numbers from a sequence which is another one's, and what a migration takes of them.
SHARED = {
    "by partitions": (
        """
            create table _cdc_p (id serial, at int, note text) partition by range (at);
            create table _cdc_p_1 partition of _cdc_p for values from (0) to (10);
            create table _cdc_p_2 partition of _cdc_p for values from (10) to (20);
            insert into _cdc_p (at) values (1), (11), (2);
            alter table _cdc_p owner to {role}; alter table _cdc_p_2 owner to {role};
            grant usage on sequence _cdc_p_id_seq to public; comment on sequence _cdc_p_id_seq is 'shared';
        """,
        ["drop table _cdc_p", "drop table _cdc_p_1", "truncate _cdc_p restart identity"],
    ),
    "by partitions, as their identity": (
        """
            create table _cdc_p (id int generated always as identity, at int) partition by list (at);
            create table _cdc_p_1 partition of _cdc_p for values in (1); insert into _cdc_p (at) values (1), (1);
        """,
        ["drop table _cdc_p", "drop table _cdc_p_1", "truncate _cdc_p restart identity"],
    ),
    "by others": (
        """
            create table _cdc_b (id serial, note text); create table _cdc_a (id int default nextval('_cdc_b_id_seq'));
            create table app (id int default nextval('_cdc_b_id_seq'));
            insert into _cdc_a select; insert into _cdc_b select; insert into app select;
            alter table _cdc_b owner to {role};
        """,
        [
            "drop table _cdc_a, _cdc_b cascade",
            "drop table _cdc_b cascade",
            "drop table _cdc_a",
            "alter sequence _cdc_b_id_seq owned by none; drop table _cdc_b",
            "truncate _cdc_a; truncate _cdc_b restart identity",
        ],
    ),
    "by a domain": (
        """
            create table _cdc_a (n int); create table _cdc_b (id serial);
            create domain numbers as int default nextval('_cdc_b_id_seq');
            alter table _cdc_a add id numbers; alter table _cdc_b add more numbers;
            insert into _cdc_a values (1); insert into _cdc_b select;
        """,
        ["drop table _cdc_a; drop table _cdc_b cascade", "drop table _cdc_a"],
    ),
    "by children": (
        """
            create table _cdc_a (id serial primary key, note text); create table _cdc_child () inherits (_cdc_a);
            create table _cdc_like (like _cdc_a including defaults);
            insert into _cdc_a select; insert into _cdc_child select; insert into _cdc_like select;
        """,
        ["drop table _cdc_a, _cdc_like cascade", "drop table _cdc_child, _cdc_like"],
    ),
}


@pytest.mark.parametrize("who", SHARED)
def test_tables_that_share_a_sequence_come_back_whoever_of_them_is_gone(
    role: str, database: FreshDatabase, tmp_path: Path, who: str
) -> None:
    tables, losses = SHARED[who]
    database.execute(sql.SQL(tables).format(role=sql.Identifier(role)))
    before = everything(database)
    session = proven(database, tmp_path)
    for loss in losses:
        for bring in ("by hand", "replace" if loss is losses[-1] else "missing"):
            database.execute(sql.SQL(loss))
            if bring == "by hand":
                restore_well(database, session.path / "restore.sql")
            else:
                bring_back(database, session, mode=RestoreMode(bring))
            assert everything(database) == before, (loss, bring)


def test_tables_that_share_a_sequence_come_back_one_by_one_in_any_order(changes: FreshDatabase, tmp_path: Path) -> None:
    changes.execute("""
        create table _cdc_a (id serial, note text); create table _cdc_b (id int default nextval('_cdc_a_id_seq'));
        insert into _cdc_a (note) values ('x'), ('y'); insert into _cdc_b select;
    """)
    session = write(changes, tmp_path)
    before = everything(changes)
    for files in (["_cdc_a.sql", "_cdc_b.sql"], ["_cdc_b.sql", "_cdc_a.sql"]):
        changes.execute("drop table _cdc_a, _cdc_b")
        for file in files:
            restore_well(changes, session.path / file)
        assert everything(changes) == before, files


def test_a_sequence_that_was_used_before_its_owner_came_back_goes_on(changes: FreshDatabase, tmp_path: Path) -> None:
    changes.execute("""
        create table _cdc_a (id serial, note text); create table _cdc_b (id int default nextval('_cdc_a_id_seq'));
        insert into _cdc_a (note) values ('x'), ('y'); insert into _cdc_b select;
    """)
    session = write(changes, tmp_path)
    changes.execute("drop table _cdc_a, _cdc_b")
    restore_well(changes, session.path / "_cdc_b.sql")
    changes.execute("insert into _cdc_b select")
    restore_well(changes, session.path / "_cdc_a.sql")
    changes.execute("insert into _cdc_a (note) values ('z')")
    assert changes.rows("select id from _cdc_a union all select id from _cdc_b order by 1") == [
        (1,), (2,), (3,), (4,), (5,),
    ]  # fmt: skip
    assert changes.rows("select pg_get_serial_sequence('_cdc_a', 'id')") == [("public._cdc_a_id_seq",)]


def test_a_sequence_that_belongs_to_another_table_by_now_is_not_taken_from_it(
    changes: FreshDatabase, tmp_path: Path
) -> None:
    changes.execute("""
        create table _cdc_a (id serial, note text); create table _cdc_b (id int default nextval('_cdc_a_id_seq'));
        insert into _cdc_a (note) values ('x');
    """)
    session = write(changes, tmp_path)
    changes.execute("alter table _cdc_a rename to kept")
    before = everything(changes)
    refused = restore(changes, session.path / "_cdc_a.sql")
    assert refused.returncode != 0
    assert "belongs to another table by now; nothing was changed" in refused.stderr
    assert everything(changes) == before


def test_what_is_put_aside_does_not_hold_on_to_a_sequence(changes: FreshDatabase, tmp_path: Path) -> None:
    changes.execute(SHARED["by partitions"][0].replace("{role}", "current_user"))
    session = write(changes, tmp_path)
    for loss in ("select", "drop table _cdc_p"):
        changes.execute(sql.SQL(loss))
        bring_back(changes, session, mode=RestoreMode.ASIDE)
        schemas = changes.rows("select nspname from pg_namespace where starts_with(nspname, 'restored_')")
        kept = sql.Identifier(schemas[0][0], "_cdc_p_1")
        assert len(changes.rows(sql.SQL("select * from {}").format(kept))) == 2
        assert changes.rows("select * from pg_attrdef where adrelid = %s::regclass", [kept.as_string(None)]) == []
        changes.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schemas[0][0])))
    bring_back(changes, session)
    assert changes.rows("select count(*) from _cdc_p") == [(3,)]
