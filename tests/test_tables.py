"""Which tables are CDC tables, and which of them cannot be read."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from psycopg import sql

from backup.errors import BackupError
from backup.postgres.embedded import Server
from backup.postgres.tables import find_passed_over, find_tables
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import (
    PREFIX,
    database_with,
    dump,
    fresh_role,
    reached,
    restore_well,
    rows,
    snapshot,
    write,
)

ODD_NAMES = (
    "_cdc_Users",
    "_cdc_users",
    "_cdc_USERS",
    "_cdc_ two  blanks ",
    "_cdc_a.b",
    '_cdc_"quoted"',
    "_cdc_it's",
    "_cdc_../../up",
    "_cdc_a/b",
    "_cdc_a\\b",
    "_cdc_\\! touch here",
    "_cdc_line\nend",
    "_cdc_line\r\nend",
    "_cdc_tab\t",
    "_cdc_\x01\x7f",
    "_cdc_;drop table users;--",
    "_cdc_$$",
    "_cdc_$1 $cdc$ $cdc_sql$",
    "_cdc_%s %% {}",
    "_cdc_*",
    "_cdc_a|_cdc_b",
    "_cdc_(?:x)[a-z]+^$",
    "_cdc_:name :'name' :\"name\"",
    "_cdc_größe",
    "_cdc_表_🐘",
    "_cdc_" + "n" * 58,
    "_cdc_" + "é" * 29,
    "_cdc_",
    "_cdc_CON",
    "_cdc_.sql",
    "_cdc_-- comment",
    "_cdc_/* comment",
)

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"),
    max_size=58,
).map(lambda name: PREFIX + name.encode()[:58].decode(errors="ignore"))


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """A role that may connect; ask for it before the database in which it is granted something."""
    with fresh_role(server) as name:
        yield name


def _found(database: FreshDatabase, *schemas: str, prefix: str = PREFIX) -> list[str]:
    with reached(database).connect() as connection:
        return [str(table) for table in find_tables(connection, prefix=prefix, schemas=schemas or "*")]


def _create(database: FreshDatabase, *names: str) -> None:
    with database.connect(autocommit=False) as connection:
        for name in names:
            connection.execute(sql.SQL("create table {} (id int)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("insert into {} values (1), (2)").format(sql.Identifier(name)))


def _drop(database: FreshDatabase, *names: str) -> None:
    with database.connect(autocommit=False) as connection:
        for name in names:
            connection.execute(sql.SQL("drop table {}").format(sql.Identifier(name)))


def test_the_prefix_is_text_and_no_pattern(database: FreshDatabase) -> None:
    _create(database, "_cdc_users", "xcdcyusers", "_cdcyusers", "cdc_users", "a_cdc_users", "_CDC_users", "_cdc")
    assert _found(database) == ["public._cdc_users"]


@pytest.mark.parametrize("prefix", ["100%_", "a\\b", "it's", '"', ".*", "Log "])
def test_a_prefix_of_any_characters_is_taken_literally(database: FreshDatabase, prefix: str) -> None:
    _create(database, f"{prefix}users", "100xyusers", "log users")
    assert _found(database, prefix=prefix) == [f"public.{prefix}users"]


def test_only_tables_are_found(database: FreshDatabase) -> None:
    database.execute("""
        create table _cdc_ordinary (id serial primary key);
        create unlogged table _cdc_unlogged (id int);
        create table _cdc_without_columns ();
        create view _cdc_view as select 1;
        create materialized view _cdc_matview as select 1;
        create sequence _cdc_sequence;
        create index _cdc_index on _cdc_ordinary (id);
        create type _cdc_type as (a int);
        create foreign data wrapper _cdc_wrapper;
        create server _cdc_server foreign data wrapper _cdc_wrapper;
        create foreign table _cdc_foreign (id int) server _cdc_server;
    """)
    assert _found(database) == ["public._cdc_ordinary", "public._cdc_unlogged", "public._cdc_without_columns"]


def test_temporary_tables_are_not_found(database: FreshDatabase) -> None:
    with reached(database).connect() as connection:
        connection.execute("create temporary table _cdc_temporary (id int)")
        assert find_tables(connection, prefix=PREFIX, schemas="*") == ()


def test_partitions_and_children_belong_to_their_table_whatever_their_names(database: FreshDatabase) -> None:
    database.execute("""
        create schema attic;
        create table _cdc_events (id int, at date) partition by range (at);
        create table events_2024 partition of _cdc_events for values from ('2024-01-01') to ('2025-01-01')
            partition by list (id);
        create table attic.few partition of events_2024 default;
        create table _cdc_parent (id int);
        create table child (extra text) inherits (_cdc_parent);
        create table attic.grandchild () inherits (child);
        create table users (id int);
        create table users_child () inherits (users);
    """)
    assert _found(database, "public") == [
        "attic.few",
        "attic.grandchild",
        "public._cdc_events",
        "public._cdc_parent",
        "public.child",
        "public.events_2024",
    ]


def test_a_partition_with_the_prefix_is_found_where_its_table_has_none(database: FreshDatabase) -> None:
    database.execute("""
        create table events (id int) partition by list (id);
        create table _cdc_events_1 partition of events for values in (1);
        create table events_2 partition of events for values in (2);
    """)
    assert _found(database) == ["public._cdc_events_1"]


def test_a_table_that_two_ways_lead_to_is_found_once(database: FreshDatabase) -> None:
    database.execute("""
        create table _cdc_a (id int);
        create table _cdc_b (other int);
        create table _cdc_both () inherits (_cdc_a, _cdc_b);
    """)
    assert _found(database) == ["public._cdc_a", "public._cdc_b", "public._cdc_both"]


def test_only_the_configured_schemas_are_looked_into(database: FreshDatabase) -> None:
    database.execute("""
        create schema audit; create schema "Audit"; create schema "a.b";
        create table _cdc_t (id int); create table audit._cdc_t (id int);
        create table "Audit"._cdc_t (id int); create table "a.b"._cdc_t (id int);
    """)
    assert _found(database, "public") == ["public._cdc_t"]
    assert _found(database, "audit", "a.b") == ["a.b._cdc_t", "audit._cdc_t"]
    assert _found(database) == ["Audit._cdc_t", "a.b._cdc_t", "audit._cdc_t", "public._cdc_t"]


def test_what_looks_like_a_cdc_table_and_is_none_is_known(database: FreshDatabase) -> None:
    database.execute("""
        create schema audit; create schema other; create schema "restored_2026-11-26T16-43-57-000Z";
        create table _cdc_t (id int) partition by list (id);
        create table audit._cdc_of_t partition of _cdc_t for values in (1);
        create table _cdc_u (id int); create table audit._cdc_child () inherits (_cdc_u);
        create table other._cdc_t (id int) partition by list (id);
        create table other._cdc_t1 partition of other._cdc_t for values in (1);
        create table audit._cdc_a (id int); create table "_CDC_Payments" (id int); create table other."_Cdc_x" (id int);
        create table "restored_2026-11-26T16-43-57-000Z"._cdc_u (id int);
        create view other._cdc_view as select 1; create table _cd (id int); create table users (id int);
        create temporary table _cdc_temporary (id int);
    """)
    with reached(database).connect() as connection:
        named = find_passed_over(connection, prefix=PREFIX, schemas=("public",))
        everywhere = find_passed_over(connection, prefix=PREFIX, schemas="*")
    case = [("other", "_Cdc_x", False), ("public", "_CDC_Payments", False)]
    assert sorted(named) == [("audit", "_cdc_a", True), case[0], ("other", "_cdc_t", True), case[1]]
    assert sorted(everywhere) == case


def test_tables_that_are_known_are_not_read_again(database: FreshDatabase) -> None:
    database.execute("create table _cdc_known (id int); create table _cdc_new (id int)")
    with reached(database).connect() as connection:
        known, new = find_tables(connection, prefix=PREFIX, schemas="*")
        assert find_tables(connection, [known.oid], prefix=PREFIX, schemas="*") == (new,)
        assert find_tables(connection, [new.oid, known.oid], prefix=PREFIX, schemas="*") == ()


def test_the_same_name_in_two_schemas_is_two_tables(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create schema audit; create schema "AUDIT";
        create table _cdc_t (id int); create table audit._cdc_t (id int); create table "AUDIT"._cdc_t (id int);
        insert into _cdc_t values (1); insert into audit._cdc_t values (2), (2); insert into "AUDIT"._cdc_t values (3);
    """)
    before = dump(database)
    session = write(database, tmp_path)
    assert [(table.schema_name, table.rows) for table in session.manifest.tables] == [
        ("AUDIT", 1),
        ("audit", 2),
        ("public", 1),
    ]
    assert len({file.name.lower() for file in session.files}) == 3
    database.execute('drop table _cdc_t, audit._cdc_t, "AUDIT"._cdc_t')
    restore_well(database, session.path / "restore.sql")
    assert dump(database) == before


def test_odd_names_are_backed_up_and_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    _create(database, *ODD_NAMES)
    before = dump(database)
    session = write(database, tmp_path)
    assert {table.name for table in session.manifest.tables if table.file} == set(ODD_NAMES)
    assert len({file.name.lower() for file in session.files}) == len(ODD_NAMES)
    _drop(database, *ODD_NAMES)
    restore_well(database, session.path / "restore.sql")
    assert dump(database) == before


def test_the_file_of_a_table_with_an_odd_name_works_alone(machine_server: Server, tmp_path: Path) -> None:
    with fresh_database(machine_server) as database:
        _create(database, *ODD_NAMES)
        before = dump(database)
        session = write(database, tmp_path)
        _drop(database, *ODD_NAMES)
        for file in session.files:
            restore_well(database, file)
        assert dump(database) == before


@given(names=st.sets(NAMES, min_size=1, max_size=8))
@settings(max_examples=10)
def test_tables_of_any_names_come_back(
    embedded_server: Server, tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    with fresh_database(embedded_server) as database:
        _create(database, *names)
        before = dump(database)
        session = write(database, tmp_path_factory.mktemp("names"))
        assert {table.name for table in session.manifest.tables} == names
        _drop(database, *names)
        restore_well(database, session.path / "restore.sql")
        assert dump(database) == before


def test_exactly_the_named_tables_are_backed_up(machine_server: Server, tmp_path: Path) -> None:
    with fresh_database(machine_server) as database:
        _create(database, *ODD_NAMES)
        for name in ODD_NAMES:
            session = write(database, tmp_path, names=[name])
            assert [table.name for table in session.manifest.tables] == [name]
            assert len(session.files) == 1


def test_a_name_may_be_said_with_its_schema(database: FreshDatabase) -> None:
    database.execute("create schema audit; create table _cdc_t (id int); create table audit._cdc_t (id int)")
    for name, found in (
        ("_cdc_t", ["audit._cdc_t", "public._cdc_t"]),
        ("audit._cdc_t", ["audit._cdc_t"]),
    ):
        with snapshot(database, names=[name]) as taken:
            assert [str(table) for table in taken.tables] == found


def test_the_partitions_of_a_named_table_come_with_it(database: FreshDatabase) -> None:
    database.execute("""
        create table _cdc_a (id int) partition by list (id);
        create table a1 partition of _cdc_a default partition by list (id);
        create table a2 partition of a1 default;
        create table _cdc_b (id int);
    """)
    with snapshot(database, names=["_cdc_a"]) as taken:
        assert [table.name for table in taken.tables] == ["_cdc_a", "a1", "a2"]


def test_a_database_in_another_encoding_has_its_names_read_right(server: Server, tmp_path: Path) -> None:
    with database_with(server, "encoding 'LATIN1'") as database:
        _create(database, "_cdc_größe", "_cdc_æ")
        before = dump(database)
        session = write(database, tmp_path)
        assert {table.name for table in session.manifest.tables} == {"_cdc_größe", "_cdc_æ"}
        _drop(database, "_cdc_größe", "_cdc_æ")
        restore_well(database, session.path / "restore.sql")
        assert dump(database) == before


def test_the_key_is_the_primary_key_or_what_no_two_rows_can_share(database: FreshDatabase) -> None:
    database.execute("""
        create table _cdc_a (x int unique not null, id int primary key);
        create table _cdc_b (x int unique, y int not null, "Z z" int not null, unique ("Z z", y));
        create table _cdc_c (x int not null, unique (x) deferrable);
        create table _cdc_d (x int not null); create unique index on _cdc_d (x) where x > 0;
        create table _cdc_e (x int not null); create unique index on _cdc_e (abs(x));
        create table _cdc_f (x int not null, y int); create unique index on _cdc_f (x) include (y);
        create table _cdc_g (x int unique);
        create table _cdc_h (x text collate "POSIX" not null); create unique index on _cdc_h (x collate "C");
    """)
    with reached(database).connect() as connection:
        keys = {table.name[-1]: table.key for table in find_tables(connection, prefix=PREFIX, schemas="*")}
    assert keys == {"a": ("id",), "b": ("Z z", "y"), "c": (), "d": (), "e": (), "f": ("x",), "g": (), "h": ()}


def test_a_table_without_select_is_an_error_that_names_it(role: str, database: FreshDatabase, tmp_path: Path) -> None:
    _create(database, "_cdc_open", "_cdc_closed")
    database.execute(sql.SQL("grant select on _cdc_open to {}").format(sql.Identifier(role)))
    _refused(database, role, tmp_path, "public._cdc_closed", f"the role {role} has no SELECT on it")


def test_a_sequence_that_may_not_be_read_is_named_beside_its_table_with_the_grant_that_lets_it(
    role: str, database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("""
        create schema apart; create sequence apart.numbers;
        create table _cdc_own (id serial, n int);
        create table _cdc_identity (id int generated always as identity, n int);
        create table _cdc_other (id bigint default nextval('apart.numbers'));
        create table _cdc_open (id serial);
    """)
    grant = sql.SQL("grant select on all tables in schema public to {0}; grant select on _cdc_open_id_seq to {0}")
    database.execute(grant.format(sql.Identifier(role)))
    message = _refused(database, role, tmp_path, "public._cdc_own", "no SELECT on its sequence public._cdc_own_id_seq")
    assert "_cdc_open" not in message
    granted = [line for line in message.splitlines() if line.startswith("GRANT")]
    assert granted == [
        f"GRANT USAGE ON SCHEMA apart TO {role};",
        f"GRANT SELECT ON SEQUENCE apart.numbers TO {role};",
        f"GRANT SELECT ON SEQUENCE public._cdc_identity_id_seq TO {role};",
        f"GRANT SELECT ON SEQUENCE public._cdc_own_id_seq TO {role};",
    ]
    database.execute("".join(granted))
    assert len(write(reached(database, user=role), tmp_path).manifest.tables) == 4


def test_a_column_grant_is_not_enough(role: str, database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("create table _cdc_half (a int, b int); insert into _cdc_half values (1, 2)")
    database.execute(sql.SQL("grant select (a) on _cdc_half to {}").format(sql.Identifier(role)))
    _refused(database, role, tmp_path, "public._cdc_half", "no SELECT on it")


def test_a_schema_without_usage_is_an_error_that_names_the_table(
    role: str, database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("create schema closed; create table closed._cdc_t (a int)")
    database.execute(sql.SQL("grant select on closed._cdc_t to {}").format(sql.Identifier(role)))
    _refused(database, role, tmp_path, "closed._cdc_t", "no USAGE on its schema")


@pytest.mark.parametrize("rows", [0, 3])
def test_row_security_is_an_error_that_names_the_table(
    role: str, database: FreshDatabase, tmp_path: Path, rows: int
) -> None:
    database.execute(f"""
        create table _cdc_t (a int);
        insert into _cdc_t select generate_series(1, {rows});
        alter table _cdc_t enable row level security;
        create policy few on _cdc_t using (a > 1);
    """)
    database.execute(sql.SQL("grant select on _cdc_t to {}").format(sql.Identifier(role)))
    _refused(database, role, tmp_path, "public._cdc_t", "row security hides rows")


def test_forced_row_security_hides_rows_from_the_owner_and_is_an_error(
    role: str, database: FreshDatabase, tmp_path: Path
) -> None:
    _create(database, "_cdc_t")
    database.execute(
        sql.SQL(
            "alter table _cdc_t owner to {}; alter table _cdc_t enable row level security;"
            "alter table _cdc_t force row level security"
        ).format(sql.Identifier(role))
    )
    _refused(database, role, tmp_path, "public._cdc_t", "row security hides rows")


def test_a_table_of_an_extension_is_an_error_that_names_both(database: FreshDatabase, tmp_path: Path) -> None:
    _create(database, "_cdc_t")
    database.execute("alter extension plpgsql add table _cdc_t")
    with pytest.raises(BackupError) as caught:
        write(database, tmp_path)
    assert "public._cdc_t: belongs to the extension plpgsql" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_every_table_that_cannot_be_read_is_named_at_once(role: str, database: FreshDatabase, tmp_path: Path) -> None:
    _create(database, "_cdc_a", "_cdc_b", "_cdc_c")
    database.execute(sql.SQL("grant select on _cdc_b to {}").format(sql.Identifier(role)))
    message = _refused(database, role, tmp_path, "public._cdc_a", "no SELECT")
    assert "public._cdc_c" in message
    assert "public._cdc_b" not in message


def test_a_role_with_no_more_than_select_can_back_up_all_of_a_table(
    role: str, database: FreshDatabase, tmp_path: Path
) -> None:
    _create(database, "_cdc_t")
    database.execute(sql.SQL("grant select on _cdc_t to {}").format(sql.Identifier(role)))
    before, held = dump(database), rows(database, "_cdc_t")
    session = write(reached(database, user=role), tmp_path)
    _drop(database, "_cdc_t")
    restore_well(database, session.path / "restore.sql")
    assert rows(database, "_cdc_t") == held
    assert dump(database) == before


def _refused(database: FreshDatabase, role: str, root: Path, table: str, cause: str) -> str:
    """Nothing is published, and the error names table and cause; its message."""
    with pytest.raises(BackupError) as caught:
        write(reached(database, user=role), root)
    message = str(caught.value)
    assert f"{table}: " in message
    assert cause in message
    assert "Nothing was backed up." in message
    assert list(root.iterdir()) == []
    return message
