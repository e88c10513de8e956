"""The rows of a snapshot as they come back: every value, any width, few processes, no lies believed."""

from pathlib import Path
from typing import Literal

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import given, settings
from psycopg import sql

from backup.errors import BackupError
from backup.postgres.archive import read_archive
from backup.postgres.embedded import Server
from backup.session.dump import LARGEST_STATEMENT
from backup.session.folder import Session
from backup.session.summary import summarize
from backup.settings import Compression
from tests.lacking import lacking
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import (
    clients_for,
    database_with,
    dump,
    pretending,
    restore_well,
    rows,
    write,
)
from tests.test_rows import TEXTS

MIB = 1024 * 1024

VALUES = """
    create type mood as enum ('glad', 'it''s sad', 'a,b');
    create type pair as (a int, b text, f float8);
    create domain positive as int check (value > 0);
    create domain reading as float8;
    create type span as range (subtype = float8);
    create table _cdc_t (
        id int generated always as identity (start with 7 increment by 3),
        small smallint, big bigint, number numeric, fixed numeric(20, 6), price money,
        single real, "double" double precision, of_domain reading, floats float8[],
        letter "char", padded char(5), short varchar(10), long text, name name,
        bytes bytea, flag bool, day date, clock time, zoned timetz, at timestamp, atz timestamptz, took interval,
        tree json, treeb jsonb, uid uuid, bits bit(5), varbits bit varying,
        feeling mood, two pair, pairs pair[], natural_number positive, words text[], grid int[][], feelings mood[],
        ints int4range, spans span, multi int4multirange, days tstzrange,
        spot point, area polygon, ring circle, host inet, net cidr, mac macaddr, words_ts tsvector, query_ts tsquery,
        lsn pg_lsn, ref oid, class regclass, xid xid, whole int generated always as (small * 2) stored
    );
    insert into _cdc_t (small, big, number, fixed, price) values
        (-32768, 9223372036854775807, 1.50000, 0.000001, -12.34), (null, null, 'NaN', 10, 0), (0, 0, 1e-30, 0, 5);
    insert into _cdc_t (number) values ('Infinity'), ('-Infinity'), (1e100), (0.000), (-0.0),
        (123456789012345678901234.5);
    insert into _cdc_t (letter, padded, short, long, name) values
        ('x', 'ab', 'ab  ', '', 'n'), ('', '', '', null, ''), (null, '     ', null, E'\\\\N', E'a\\nb'),
        ('''', '''', '''''', '''', '"'), ('\\', '\\', '\\.', '\\\\.', '\\');
    insert into _cdc_t (bytes) values (''), ('\\x00ff275c0a'), (decode(repeat('00', 3000), 'hex'));
    insert into _cdc_t (day, clock, zoned, at, atz, took) values
        ('infinity', '24:00', '12:00+05:30', 'infinity', '-infinity', '1 year -2 mons +3 days -04:05:06.789'),
        ('4713-01-01 BC', '00:00:00.000001', '12:00-15', '0044-03-15 BC', '2024-03-31 02:30:00.123456+02', '-1 mons'),
        ('01/02/2003', null, null, '294276-12-31', '1900-01-01 00:00:00 Europe/Amsterdam', '178000000 years');
    insert into _cdc_t (tree, treeb, uid, bits, varbits) values
        ('{"b": 1,   "a": [1.50, null, "\\u00e9\\n"] , "a": 2}', '{"b": 1.50, "a": "it''s \\\\ \\n"}',
         'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', B'10101', B''),
        ('null', 'null', null, null, B'1');
    insert into _cdc_t (feeling, two, pairs, natural_number, words, grid, feelings) values
        ('it''s sad', row(1, 'a "b", (c)\\', 1.5), array[row(null, '', 'NaN')::pair, null], 5,
         array['', 'NULL', null, 'a,b', '{"}', E'\\n'], '{{1,2},{3,4}}', '{glad,"a,b"}'),
        ('glad', null, '{}', null, '{}', '[2:3][0:1]={{1,2},{3,4}}', null);
    insert into _cdc_t (ints, spans, multi, days) values
        ('[1,5)', '(0.1,1e300]', '{[1,3),[7,9)}', '[2024-01-01 00:00+00,)'), ('empty', '(,)', '{}', 'empty');
    insert into _cdc_t (spot, area, ring, host, net, mac, words_ts, query_ts, lsn, ref, class, xid) values
        ('(1.5,-2)', '((0,0),(1,1),(1,0))', '<(0,0),0.1>', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
         'it''s:1A fat:2', 'fat & (rat | !cat:*)', '16/B374D848', 4294967295, 'pg_class', '4294967295');
    insert into _cdc_t (single, "double", of_domain, floats) values
        ('NaN', 'NaN', 'NaN', '{NaN,Infinity,-Infinity,-0}'), ('Infinity', '-Infinity', '1e-310', '{}'),
        (1.1, 0.1::float8 + 0.2, 1.7976931348623157e308, null), (3.4028235e38, 5e-324, 100, '{1e300}');
"""


def _comes_back(database: FreshDatabase, root: Path, *tables: str, format_: Literal["sql", "copy"] = "sql") -> Session:
    """Back up, drop, restore: the database is as it was; the session."""
    held = [rows(database, table) for table in tables]
    assert all(held)
    before = dump(database)
    session = write(database, root, format=format_)
    for table in tables:
        database.execute(f'drop table "{table}"')
    restore_well(database, session.path / "restore.sql")
    assert [rows(database, table) for table in tables] == held
    assert dump(database) == before
    return session


def test_values_of_every_type_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(VALUES)
    session = _comes_back(database, tmp_path, "_cdc_t")
    assert session.manifest.tables[0].rows_per_insert == 100


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings = off",
        "IntervalStyle = sql_standard",
        "IntervalStyle = iso_8601",
        "DateStyle = 'SQL, DMY'",
        "DateStyle = 'German'",
        "bytea_output = escape",
        "extra_float_digits = -15",
        "TimeZone = 'Asia/Kathmandu'",
        "client_encoding = LATIN1",
        "quote_all_identifiers = on",
        "xmloption = document",
        "search_path = ''",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
    ],
)
def test_values_come_back_whatever_is_set_on_the_database(machine_server: Server, tmp_path: Path, setting: str) -> None:
    with fresh_database(machine_server) as database:
        database.execute(VALUES)
        held, before = rows(database, "_cdc_t"), dump(database)
        database.execute(f"alter database {database.name} set {setting}")
        session = write(database, tmp_path)
        database.execute("drop table public._cdc_t")
        restore_well(database, session.files[0])
        database.execute(f"alter database {database.name} reset all")
        assert rows(database, "_cdc_t") == held
        assert dump(database) == before


def test_no_time_limit_of_the_database_ends_a_restore(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(f"""
        create function slow() returns bool language sql volatile as 'select pg_sleep(0.5) is not null';
        create table _cdc_t (id int check (slow()));
        insert into _cdc_t values (1);
        alter database {database.name} set statement_timeout = '250ms';
    """)
    before = dump(database)
    session = write(database, tmp_path)
    database.execute("drop table _cdc_t")
    restore_well(database, session.files[0])
    assert dump(database) == before


def test_xml_comes_back_content_or_document(machine_server: Server, tmp_path: Path) -> None:
    with fresh_database(machine_server) as database:
        try:
            database.execute("select '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            lacking("values of the type xml (the server was built without libxml)")
        database.execute("""
            create table _cdc_t (x xml);
            insert into _cdc_t values ('<a b="c">it''s &lt;<!-- x --></a>'), ('content only <x/>'), (''), (null);
        """)
        _comes_back(database, tmp_path, "_cdc_t")


def test_in_the_format_copy_one_pg_dump_writes_all_rows_as_copy_blocks(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(VALUES + "create table _cdc_f (f float8); insert into _cdc_f values ('-0'), (1);")
    database.execute("create table _cdc_empty (a int); create table _cdc_p (a int) partition by range (a)")
    session = _comes_back(database, tmp_path, "_cdc_t", "_cdc_f", format_="copy")
    assert session.manifest.format == "copy"
    for file in session.files:
        assert b"\nCOPY " in file.read_bytes()
        assert b"\nINSERT INTO " not in file.read_bytes().partition(b"\nCOPY ")[2].partition(b"\n\\.\n")[0]
    summary = (session.path / "backup-summary.txt").read_text()
    assert "Rows:        as COPY blocks (backup.format: copy)" in summary
    assert "lose the sign" not in summary


@pytest.mark.parametrize("type_", ["real", "double precision", "reading", "inner_reading"])
def test_the_sign_of_a_negative_zero_comes_back(database: FreshDatabase, tmp_path: Path, type_: str) -> None:
    database.execute(f"""
        create domain reading as float8; create domain inner_reading as reading;
        create table _cdc_t (id int, "a ""value" {type_}, "text" text);
        insert into _cdc_t values (1, '-0', E'tab\\t\\\\. and\\nline'), (2, 0, null), (3, 'NaN', '\\N'), (4, -1.5, '');
        create table _cdc_plain (f {type_});
        insert into _cdc_plain values (0), ('NaN'), (-1);
    """)
    session = _comes_back(database, tmp_path, "_cdc_t", "_cdc_plain")
    assert {table.name: table.rows_per_insert for table in session.manifest.tables} == {"_cdc_t": 0, "_cdc_plain": 100}
    summary = (session.path / "backup-summary.txt").read_text()
    assert "written as COPY: INSERT would lose the sign of a float's -0" in summary


def test_a_negative_zero_in_a_generated_column_needs_no_saving(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_t (a int, f float8 generated always as (a * '-1'::float8) stored);
        insert into _cdc_t values (0), (1)
    """)
    assert rows(database, "_cdc_t") == ["(0,-0)", "(1,-1)"]
    session = _comes_back(database, tmp_path, "_cdc_t")
    assert session.manifest.tables[0].rows_per_insert == 100


@given(texts=st.lists(st.one_of(st.none(), TEXTS), min_size=1, max_size=120))
@settings(max_examples=10)
def test_every_text_comes_back(
    embedded_server: Server, tmp_path_factory: pytest.TempPathFactory, texts: list[str | None]
) -> None:
    with fresh_database(embedded_server) as database:
        database.execute("create table _cdc_t (a text, f float8); create table _cdc_zero (a text, f float8)")
        with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
            cursor.executemany("insert into _cdc_t values (%s, 1)", [[text] for text in texts])
            cursor.executemany("insert into _cdc_zero values (%s, '-0')", [[text] for text in texts])
        _comes_back(database, tmp_path_factory.mktemp("texts"), "_cdc_t", "_cdc_zero")


def test_tables_without_columns_or_with_default_rows_alone_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_none ();
        insert into _cdc_none default values; insert into _cdc_none default values;
        create table _cdc_generated (g int generated always as (1) stored);
        insert into _cdc_generated default values;
        create table _cdc_dropped (a int); insert into _cdc_dropped values (1), (2); alter table _cdc_dropped drop a;
        create table _cdc_nulls (a int, b text); insert into _cdc_nulls values (null, null), (null, '');
    """)
    session = _comes_back(database, tmp_path, "_cdc_none", "_cdc_generated", "_cdc_dropped", "_cdc_nulls")
    assert [table.rows for table in session.manifest.tables] == [2, 1, 2, 2]


def test_columns_in_another_order_than_they_were_made_come_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_t (gone int, a int, gone2 text, b text);
        alter table _cdc_t drop gone, drop gone2, add c int default 3, alter b set not null;
        insert into _cdc_t values (1, 'b'), (2, 'c');
    """)
    _comes_back(database, tmp_path, "_cdc_t")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_texts_of_a_database_in_another_encoding_come_back(server: Server, tmp_path: Path, encoding: str) -> None:
    text = {"LATIN1": "größe ÿ", "SQL_ASCII": "größe 表", "EUC_JP": "日本語"}[encoding]
    with database_with(server, f"encoding '{encoding}' locale 'C'") as database:
        with database.connect(client_encoding="UTF8") as connection:
            connection.execute("create table _cdc_t (a text, f float8)")
            connection.execute("insert into _cdc_t values (%s, 1), ('plain', 2)", [text])
        _comes_back(database, tmp_path, "_cdc_t")


def test_bytes_of_no_encoding_are_refused_and_not_lost(server: Server, tmp_path: Path) -> None:
    with database_with(server, "encoding 'SQL_ASCII' locale 'C'") as database:
        database.execute("create table _cdc_t (a text); insert into _cdc_t values (E'gr\\366\\337e'), (E'\\377')")
        with pytest.raises(BackupError, match='invalid byte sequence for encoding "UTF8": 0xf6'):
            write(database, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_value_of_sixteen_megabytes_comes_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(f"""
        create table _cdc_t (id int, a text, b bytea);
        insert into _cdc_t values
            (1, rpad('', {16 * MIB}, 'it''s \\ a "text"' || chr(10) || chr(9) || '('), null),
            (2, null, convert_to(rpad('', {2 * MIB}, 'bytes '), 'UTF8')), (3, 'short', 'short');
    """)
    session = _comes_back(database, tmp_path, "_cdc_t")
    assert session.manifest.tables[0].rows_per_insert == 1


def _statements(session: Session) -> list[int]:
    """The bytes of each INSERT of more than one row in the session."""
    sizes = []
    for file in session.files:
        lines = file.read_bytes().split(b"\n")
        begin = None
        for number, line in enumerate(lines):
            if line.startswith(b"INSERT INTO"):
                begin = number
            if begin is not None and line.endswith(b";"):
                if number - begin > 1:
                    sizes.append(sum(len(part) + 1 for part in lines[begin : number + 1]))
                begin = None
    return sizes


@pytest.mark.parametrize("value", ["random", "compressible"])
def test_wide_rows_make_no_statement_over_sixteen_mebibytes(
    embedded_server: Server, tmp_path: Path, value: str
) -> None:
    # The compressible ones are small on the server, where the first guess at a statement's size is made.
    text = f"repeat('a', {MIB})" if value == "compressible" else f"repeat(md5(g::text), {MIB // 32})"
    with fresh_database(embedded_server) as database:
        database.execute(f"""
            create table _cdc_wide (id int primary key, a text);
            alter table _cdc_wide alter a set storage {"extended" if value == "compressible" else "external"};
            insert into _cdc_wide select g, {text} from generate_series(1, 50) g;
            create table _cdc_mixed (id int primary key, a text);
            insert into _cdc_mixed select g, repeat('b', case g % 100 when 0 then {MIB} else 10 end)
                from generate_series(1, 1000) g;
            create table _cdc_narrow (id int);
            insert into _cdc_narrow select generate_series(1, 200);
        """)
        log = tmp_path / "argv"
        clients = pretending(tmp_path / "bin", clients_for(database), f'echo run >> "{log}"\nreal "$@"')
        session = write(database, tmp_path / "root", clients=clients)
        sizes = _statements(session)
        assert sizes
        assert max(sizes) <= LARGEST_STATEMENT
        wide = next(table for table in session.manifest.tables if table.name == "_cdc_wide")
        narrow = next(table for table in session.manifest.tables if table.name == "_cdc_narrow")
        assert wide.rows_per_insert in (3, 10)
        assert narrow.rows_per_insert == 100
        assert len(log.read_text().splitlines()) <= 3
        held = [rows(database, name) for name in ("_cdc_wide", "_cdc_mixed")]
        database.execute("drop table _cdc_wide, _cdc_mixed, _cdc_narrow")
        restore_well(database, session.path / "restore.sql")
        assert [rows(database, name) for name in ("_cdc_wide", "_cdc_mixed")] == held


def test_wide_rows_side_by_side_are_dumped_until_no_statement_is_too_large(
    embedded_server: Server, tmp_path: Path
) -> None:
    with fresh_database(embedded_server) as database:
        database.execute(f"""
            create table _cdc_t (id int, a text);
            insert into _cdc_t select g, repeat('a', case when g between 61 and 63 then 6 * {MIB} else 1 end)
                from generate_series(1, 120) g;
            create table _cdc_narrow (id int);
            insert into _cdc_narrow select generate_series(1, 200);
        """)
        log = tmp_path / "argv"
        clients = pretending(tmp_path / "bin", clients_for(database), f'echo run >> "{log}"\nreal "$@"')
        session = write(database, tmp_path / "root", clients=clients)
        # Three of them make a statement too large, however few others are in it: 100, 30, 10, 3, 1 rows.
        assert len(log.read_text().splitlines()) == 5
        assert [table.rows_per_insert for table in session.manifest.tables] == [100, 1]
        assert len([path for path in session.path.iterdir() if "_cdc_t" in path.name]) == 1
        held = rows(database, "_cdc_t")
        database.execute("drop table _cdc_t, _cdc_narrow")
        restore_well(database, session.path / "restore.sql")
        assert rows(database, "_cdc_t") == held


def test_nine_hundred_tables_among_two_thousand_take_one_pg_dump(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        do $$ begin
            for g in 1..900 loop
                execute format('create table _cdc_t%s (id int primary key, a text)', g);
                execute format('insert into _cdc_t%s values (%s, ''a''), (0, null)', g, g);
            end loop;
            for g in 1..1100 loop execute format('create table users%s (id int)', g); end loop;
        end $$
    """)
    log = tmp_path / "argv"
    clients = pretending(tmp_path / "bin", clients_for(database), f'echo run >> "{log}"\nreal "$@"')
    (clients.folder / "psql").write_text(f'#!/bin/sh\necho psql >> "{log}"\n')
    session = write(database, tmp_path / "root", clients=clients)
    assert log.read_text().splitlines() == ["run"]
    assert len(session.files) == 900
    assert session.rows == 1800


def test_many_tables_are_named_by_their_beginning_where_nothing_else_begins_so(
    database: FreshDatabase, tmp_path: Path
) -> None:
    database.execute("""
        do $$ begin for n in 1..30 loop
            execute format('create table "_cdc_$1*.%s" (id int generated always as identity, t text)', n);
            execute format('insert into "_cdc_$1*.%s" (t) values (%L)', n, n);
        end loop; end $$
    """)
    log = tmp_path / "log"
    clients = pretending(tmp_path / "bin", clients_for(database), f'echo "$*" >> "{log}"; real "$@"')
    session = write(database, tmp_path / "together", clients=clients)
    assert log.read_text().count("--table=") == 1
    database.execute("drop schema public cascade; create schema public")
    restore_well(database, session.path / "restore.sql")
    assert [rows(database, sql.Identifier(f"_cdc_$1*.{n}")) for n in (1, 30)] == [["(1,1)"], ["(1,30)"]]

    database.execute('create sequence "_cdc_$1*.of nobody"; create view "_cdc_$1*.v" as select 1')
    log.unlink()
    session = write(database, tmp_path / "one by one", clients=clients)
    assert log.read_text().count("--table=") == 30
    assert "of nobody" not in (session.path / "restore.sql").read_text()
    names = [f"_cdc_$1*.{n}" for n in range(1, 26)]
    assert len(write(database, tmp_path / "some", names=names).files) == 25


@pytest.fixture
def three_tables(database: FreshDatabase) -> FreshDatabase:
    """Two tables with rows, one of them written by COPY, and an empty one."""
    database.execute("""
        create table _cdc_a (id int); insert into _cdc_a select generate_series(1, 250);
        create table _cdc_empty (id int);
        create table _cdc_z (id int, f float8); insert into _cdc_z values (1, '-0'), (2, 0);
    """)
    return database


_FOLDER = 'for a in "$@"; do case "$a" in --file=*) out=${a#--file=};; esac; done\n'

LIES = {
    "a row less": ('real "$@" && sed -i "0,/^\\t(7)/{/^\\t(7)/d}" "$out"/[0-9]*.dat', "has 250 rows in the snapshot"),
    "a row twice": (
        'real "$@" && sed -i "s/^\\t(7),/\\t(7),\\n\\t(7),/" "$out"/[0-9]*.dat',
        "pg_dump wrote 251 of them",
    ),
    "no rows": ('real "$@" && for f in "$out"/[0-9]*.dat; do : > "$f"; done', "has 250 rows in the snapshot"),
    "no file of rows": ('real "$@" && rm "$out"/[0-9]*.dat', "pg_dump wrote nothing of public._cdc_a, which has rows"),
    "rows without an end": (
        'real "$@" && for f in "$out"/[0-9]*.dat; do truncate -s -5 "$f"; done',
        "what pg_dump wrote ends in the middle",
    ),
    "nothing at all": ("exit 0", "pg_dump ended as if all were well"),
    "an empty folder": ('mkdir "$out"', "pg_dump ended as if all were well"),
    "half a table of contents": (
        'real "$@" && truncate -s -200 "$out"/toc.dat',
        "pg_dump ended as if all were well",
    ),
    "no table of contents": ('real "$@" && echo hello > "$out"/toc.dat', "pg_dump ended as if all were well"),
    "a later format": (
        'real "$@" && printf "PGDMP\\001\\143" | dd of="$out"/toc.dat conv=notrunc 2>/dev/null',
        "pg_dump wrote an archive of version 1.99, which is not known here",
    ),
    "a table left out": ('real "$@" --exclude-table=_cdc_empty', "pg_dump wrote no definition of public._cdc_empty"),
    "definitions alone": ('real "$@" --schema-only', "pg_dump wrote nothing of public._cdc_a, which has rows"),
    "a failure": ('real "$@"; echo "disk on fire" >&2; exit 1', "disk on fire"),
    "a death": ("kill -9 $$", "ended with exit code 137"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_pg_dump_that_lies_is_not_believed(three_tables: FreshDatabase, tmp_path: Path, lie: str) -> None:
    script, message = LIES[lie]
    clients = pretending(tmp_path / "bin", clients_for(three_tables), _FOLDER + script)
    with pytest.raises(BackupError) as caught:
        write(three_tables, tmp_path / "root", clients=clients)
    assert message in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_large_table_of_several_that_lacks_a_row_is_named_and_nothing_is_left(
    embedded_server: Server, tmp_path: Path, compression: Compression | None
) -> None:
    with fresh_database(embedded_server) as database:
        for name in ("_cdc_a", "_cdc_b", "_cdc_c"):
            database.execute(f"create table {name} (id int, a text)")
            database.execute(f"insert into {name} select g, repeat('{name}', 10) from generate_series(1, 9000) g")
        less = 'real "$@" && for f in $(grep -l _cdc_b_cdc_b "$out"/*.dat); do sed -i "/^\\t(7,/d" "$f"; done'
        clients = pretending(tmp_path / "bin", clients_for(database), _FOLDER + less)
        with pytest.raises(BackupError, match=r"_cdc_b has 9,000 rows in the snapshot, and pg_dump wrote 8,999"):
            write(database, tmp_path / "root", clients=clients, compression=compression)
        assert list((tmp_path / "root").iterdir()) == []


def test_a_pg_dump_that_copies_a_row_less_is_not_believed(three_tables: FreshDatabase, tmp_path: Path) -> None:
    script = 'real "$@" && case "$*" in *--data-only*) sed -i "/^2\\t0$/d" "$out"/[0-9]*.dat;; esac'
    clients = pretending(tmp_path / "bin", clients_for(three_tables), _FOLDER + script)
    with pytest.raises(BackupError, match=r"public\._cdc_z has 2 rows in the snapshot, and pg_dump wrote 1 of them"):
        write(three_tables, tmp_path / "root", clients=clients)
    assert list((tmp_path / "root").iterdir()) == []


def test_rows_that_the_snapshot_did_not_count_are_noticed(three_tables: FreshDatabase, tmp_path: Path) -> None:
    script = 'case "$*" in *--data-only*) real "$@";; *) real $(echo "$@" | sed "s/--snapshot=[^ ]*//");; esac'
    late = f'"{three_tables.server.binaries}/psql" -qXd "{three_tables.url}" -c "insert into _cdc_empty values (1)"'
    clients = pretending(tmp_path / "bin", clients_for(three_tables), f"{late}\n{script}")
    with pytest.raises(BackupError, match=r"public\._cdc_empty is empty in the snapshot, and pg_dump wrote rows"):
        write(three_tables, tmp_path / "root", clients=clients)
    assert list((tmp_path / "root").iterdir()) == []


def test_an_archive_of_each_known_pg_dump_is_read(three_tables: FreshDatabase, tmp_path: Path) -> None:
    pg_dump = three_tables.server.binaries / "pg_dump"
    done = three_tables.psql(
        f"--command=\\! '{pg_dump}' -Fd -Z0 -f '{tmp_path / 'out'}' '{three_tables.url}' --schema-only"
    )
    assert done.stderr == ""
    entries = read_archive(tmp_path / "out")
    assert [entry.tag for entry in entries if entry.kind == "TABLE"] == ["_cdc_a", "_cdc_empty", "_cdc_z"]
    assert all(entry.catalog and entry.oid for entry in entries if entry.kind == "TABLE")


def test_an_empty_table_is_named_and_its_definition_comes_back(three_tables: FreshDatabase, tmp_path: Path) -> None:
    session = write(three_tables, tmp_path)
    assert [(skipped.name, skipped.reason) for skipped in session.manifest.skipped] == [("_cdc_empty", "empty")]
    assert [file.name for file in session.files] == ["_cdc_a.sql", "_cdc_z.sql"]
    assert "_cdc_empty: empty" in (session.path / "backup-summary.txt").read_text()
    three_tables.execute("drop table _cdc_a, _cdc_empty, _cdc_z")
    restore_well(three_tables, session.path / "restore.sql")
    assert three_tables.rows("select * from _cdc_empty") == []


@pytest.mark.parametrize(("form", "megabytes", "said"), [("sql", 300, True), ("sql", 200, False), ("copy", 300, False)])
def test_copy_is_spoken_of_where_many_rows_are_insert_statements(
    database: FreshDatabase, tmp_path: Path, form: Literal["sql", "copy"], megabytes: int, said: bool
) -> None:
    database.execute("create table _cdc_t (id int); insert into _cdc_t values (1)")
    manifest = write(database, tmp_path, format=form).manifest
    [table] = manifest.tables
    larger = table.model_copy(update={"rows_bytes": megabytes * 1_000_000})
    assert ("backup.format: copy) so many rows" in summarize(manifest.model_copy(update={"tables": (larger,)}))) == said
