"""A table's fingerprint: no order changes it, and every change does that a person could see."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from backup.errors import RestoreError
from backup.postgres.embedded import Server
from backup.postgres.fingerprint import add_fingerprints, fingerprint_tables
from backup.postgres.tables import find_tables
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import reached


@pytest.fixture(scope="module")
def database(embedded_server: Server) -> Iterator[FreshDatabase]:
    with fresh_database(embedded_server) as fresh:
        yield fresh


def fingerprint(database: FreshDatabase, made: str | sql.Composed, settings: str = "select") -> str:
    """The fingerprint of the one table that the statements make, in a session with these settings."""
    with reached(database).connect() as connection:
        connection.execute("drop table if exists public._cdc_t")
        connection.execute("set search_path to public")
        connection.execute(sql.SQL(made) if isinstance(made, str) else made)
        connection.execute(sql.SQL(settings))
        (found,) = fingerprint_tables(connection, find_tables(connection, prefix="_cdc_t", schemas="*")).values()
        return found


def of_rows(database: FreshDatabase, rows: list[tuple[int | None, str | None]], *, columns: str = "a, b") -> str:
    values = sql.SQL(", ").join(sql.SQL("({}, {})").format(a, b) for a, b in rows)
    insert = sql.SQL("insert into _cdc_t (a, b) values {};").format(values) if rows else sql.SQL("")
    types = {"a": "a int", "b": "b text"}
    table = ", ".join(types[name] for name in columns.split(", "))
    return fingerprint(database, sql.SQL("create table _cdc_t ({}); {}").format(sql.SQL(table), insert))


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=4)
tables = st.lists(st.tuples(st.none() | st.integers(-3, 3), st.none() | texts), max_size=5)


@given(tables, st.randoms())
def test_no_order_of_rows_or_columns_changes_it(
    database: FreshDatabase,
    rows: list[tuple[int | None, str | None]],
    random: "st.Random",  # type: ignore[name-defined]
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert of_rows(database, rows) == of_rows(database, shuffled, columns="b, a")


@given(tables, tables)
def test_tables_of_other_rows_have_another(
    database: FreshDatabase, one: list[tuple[int | None, str | None]], other: list[tuple[int | None, str | None]]
) -> None:
    alike = sorted(one, key=repr) == sorted(other, key=repr)
    assert (of_rows(database, one) == of_rows(database, other)) == alike


@pytest.mark.parametrize(
    ("type_", "one", "other"),
    [
        ("float8", "-0", "0"),
        ("float8", "0.1", "0.10000000000000002"),
        ("float4", "-0", "0"),
        ("numeric", "1.0", "1.00"),
        ("numeric", "0", "0.0"),
        ("char(3)", "a", "b"),
        ("text", "", None),
        ("text", "NULL", None),
        ("text", "a", "a "),
        ("text", "ä", "a\u0308"),
        ("text[]", "{}", None),
        ("text[]", "{NULL}", '{"NULL"}'),
        ("text[]", "[0:0]={a}", "{a}"),
        ("bytea", "\\x00", "\\x"),
        ("bytea", "\\x5c", "\\x5c5c"),
        ("json", '{"a": 1}', '{"a":1}'),
        ("bit(3)", "001", "010"),
        ("interval", "1 day", "24 hours"),
        ("timestamptz", "2025-01-01 00:00:00.000001+00", "2025-01-01 00:00:00+00"),
        ("timetz", "00:00+01", "01:00+02"),
        ("money", "1", "1.01"),
    ],
)
def test_values_that_look_different_have_another(
    database: FreshDatabase, type_: str, one: str, other: str | None
) -> None:
    made = sql.SQL("create table _cdc_t (a {}); insert into _cdc_t values ({})")
    prints = {fingerprint(database, made.format(sql.SQL(type_), value)) for value in (one, other)}
    assert len(prints) == 2


def test_the_padding_of_char_counts(database: FreshDatabase) -> None:
    made = sql.SQL("create table _cdc_t (a {}); insert into _cdc_t values ('a')")
    assert fingerprint(database, made.format(sql.SQL("char(3)"))) != fingerprint(database, made.format(sql.SQL("text")))


def test_the_same_row_twice_counts_twice(database: FreshDatabase) -> None:
    prints = {of_rows(database, [(1, "x")] * n) for n in range(5)}
    assert len(prints) == 5


def test_a_value_that_moved_to_another_column_shows(database: FreshDatabase) -> None:
    made = "create table _cdc_t (a int, b int); insert into _cdc_t values "
    assert fingerprint(database, f"{made} (1, 2)") != fingerprint(database, f"{made} (2, 1)")


@pytest.mark.parametrize(
    "settings",
    [
        "set datestyle = 'SQL, DMY'; set intervalstyle = 'iso_8601'",
        "set timezone = 'Asia/Kathmandu'",
        "set extra_float_digits = -15",
        "set bytea_output = 'escape'",
        "set search_path = public; set standard_conforming_strings = off",
    ],
)
def test_a_sessions_settings_do_not_change_it(database: FreshDatabase, settings: str) -> None:
    made = """
        create table _cdc_t (d date, i interval, t timestamptz, f float8, b bytea, r regclass);
        insert into _cdc_t values ('2025-02-01', '1 mon -2 days', '2025-02-01 12:00+00', 0.1::float8 + 0.2, '\\x5c00',
            '_cdc_t')
    """
    assert fingerprint(database, made, settings) == fingerprint(database, made)


def test_a_table_without_columns_or_rows_has_one(database: FreshDatabase) -> None:
    assert fingerprint(database, "create table _cdc_t ()") == "0"
    assert fingerprint(database, "create table _cdc_t (); insert into _cdc_t default values").startswith("1:")


def test_fingerprints_of_two_forms_have_no_sum() -> None:
    assert add_fingerprints("2:30", "1:4") == "3:34"
    assert add_fingerprints("0", "1:4") == "1:4"
    with pytest.raises(RestoreError, match="1:2:3 and 1:4 are no fingerprints of one form"):
        add_fingerprints("1:2:3", "1:4")
