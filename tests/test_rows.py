"""What pg_dump wrote is counted exactly, whatever the values and names hold."""

import subprocess
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from psycopg import sql

from backup.errors import BackupError
from backup.postgres.archive import read_archive
from backup.postgres.embedded import Server
from backup.session.rows import Counting, Written, count_copied, count_inserted
from tests.servers import FreshDatabase, clean_environment, fresh_database
from tests.sessions import PREFIX

PIECES = (
    "'",
    "''",
    '"',
    "\\",
    "\\\\.",
    "\\.\n",
    "\n",
    "\r\n",
    "\t",
    "\n\t(",
    "\n\t('x', 1),\n",
    ";\n",
    ");\n",
    "'),\n\t('",
    "INSERT INTO public._cdc_t VALUES\n\t(1);\n",
    "\nINSERT INTO x DEFAULT VALUES;\n",
    "\\! true\n",
    "\n\\.\n\n\n",
    "--\n",
    "/*",
    "$$",
    "E'",
    "é🐘",
    "\x01",
    "",
)
"""What texts are made of: all that means something in a dump."""

TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=3)),
    max_size=6,
).map("".join)

ODD_COLUMNS = ("id", 'a "quoted" one', "line\n\tend", "it's", ");\n", "größe", "\n\t(")


def _dump(database: FreshDatabase, folder: Path, *arguments: str) -> Path:
    """The rows of the database's only table, as its own pg_dump writes them into a folder."""
    subprocess.run(
        (
            str(database.server.binaries / "pg_dump"),
            "--format=directory",
            "--compress=0",
            "--data-only",
            f"--file={folder}",
            f"--dbname={database.url}",
            *arguments,
        ),
        env=clean_environment(),
        check=True,
    )
    (entry,) = (entry for entry in read_archive(folder) if entry.kind == "TABLE DATA")
    return folder / entry.file


def _inserts(rows: int) -> tuple[str, str]:
    return ("--column-inserts", f"--rows-per-insert={rows}")


def _fill(database: FreshDatabase, texts: list[str | None]) -> None:
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in ODD_COLUMNS)
    with database.connect(autocommit=False) as connection:
        connection.execute(sql.SQL("create table {} ({})").format(sql.Identifier(f"{PREFIX}\n\t('"), columns))
        with connection.cursor() as cursor:
            cursor.executemany(
                sql.SQL("insert into {} values ({})").format(
                    sql.Identifier(f"{PREFIX}\n\t('"),
                    sql.SQL(", ").join([sql.Placeholder()] * len(ODD_COLUMNS)),
                ),
                [[text] * len(ODD_COLUMNS) for text in texts],
            )


@pytest.mark.parametrize("rows_per_insert", [1, 3, 100])
def test_rows_of_every_piece_of_sql_are_counted(database: FreshDatabase, tmp_path: Path, rows_per_insert: int) -> None:
    texts = [*PIECES, *(a + b for a in PIECES for b in PIECES), None]
    _fill(database, texts)
    file = _dump(database, tmp_path / "out", *_inserts(rows_per_insert))
    assert count_inserted(file).rows == len(texts)


def test_rows_of_every_piece_of_sql_are_counted_as_copy(database: FreshDatabase, tmp_path: Path) -> None:
    texts = [*PIECES, *(a + b for a in PIECES for b in PIECES), None]
    _fill(database, texts)
    assert count_copied(_dump(database, tmp_path / "out")).rows == len(texts)


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=130),
    rows_per_insert=st.sampled_from([1, 10, 100]),
    read_at_once=st.integers(1, 3000),
)
@settings(max_examples=15)
def test_rows_of_any_texts_are_counted(
    embedded_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str | None],
    rows_per_insert: int,
    read_at_once: int,
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    with fresh_database(embedded_server) as database, pytest.MonkeyPatch.context() as patch:
        _fill(database, texts)
        inserts = _dump(database, folder / "inserts", *_inserts(rows_per_insert))
        copied = _dump(database, folder / "copy")
        written = count_inserted(inserts)
        assert written.rows == count_copied(copied).rows == len(texts)
        patch.setattr("backup.session.rows._CHUNK", read_at_once)
        assert count_inserted(inserts) == written
        assert count_copied(copied).rows == len(texts)


@pytest.mark.parametrize("read_at_once", [1, 10, 60, 100, 250, 1000])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_where_a_piece_ends_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read_at_once: int, last: int
) -> None:
    begin, file = 'INSERT INTO public._cdc_t (a, "b""c") VALUES\n', tmp_path / "rows.dat"
    long = f"\t(6, '{'x' * 300}')"
    rows = ("\t(1, 'x''y')", "\t(2, '''')", "\t(3, 'a\n\t(''),\n')", "\t(4, '')", f"\t(5, '\n{begin}\t(6);\n')", long)
    kinds = [[0, 1, 0], [5], [0, 1, 3], [3, 3, 3, 3], [0, 2, 0], [1], [4, 4], [0, 0]]
    kinds += kinds[:last]
    texts = [begin + ",\n".join(rows[kind] for kind in statement) + ";\n" for statement in kinds]
    file.write_text("".join(texts))
    monkeypatch.setattr("backup.session.rows._CHUNK", read_at_once)
    largest = max(len(text) for text, statement in zip(texts, kinds, strict=True) if len(statement) > 1)
    assert count_inserted(file) == Written(rows=sum(map(len, kinds)), largest_statement=largest)
    file.write_text("".join(texts)[:-1])
    with pytest.raises(BackupError, match="middle of a statement"):
        count_inserted(file)
    with file.open("rb") as shorter, pytest.raises(BackupError, match="became shorter"):
        list(Counting("rows.dat", copied=False).read(shorter, len("".join(texts))))


@pytest.mark.parametrize("rows_per_insert", [1, 3, 100])
def test_values_that_hold_a_whole_statement_of_the_same_table_are_no_rows(
    database: FreshDatabase, tmp_path: Path, rows_per_insert: int
) -> None:
    database.execute("create table _cdc_t (a text, b text)")
    statement = "\nINSERT INTO public._cdc_t (a, b) VALUES\n\t('x', 'y'),\n\t('x', 'y');"
    texts = ["plain", statement, f"{statement}{statement}\n", f"'{statement}\n", "it's one", None] * 5
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.executemany("insert into _cdc_t values (%s, %s)", [(text, text) for text in texts])
    assert count_inserted(_dump(database, tmp_path / "out", *_inserts(rows_per_insert))).rows == len(texts)


@pytest.mark.parametrize(
    "definition",
    [
        "()",
        "(a int generated always as (1) stored)",
        "(a int generated always as identity)",
        "(a text default 'x')",
    ],
)
@pytest.mark.parametrize("rows_per_insert", [1, 100])
def test_rows_that_are_all_default_are_counted(
    database: FreshDatabase, tmp_path: Path, definition: str, rows_per_insert: int
) -> None:
    database.execute(f"create table _cdc_t {definition}")
    for _ in range(7):
        database.execute("insert into _cdc_t default values")
    assert count_inserted(_dump(database, tmp_path / "out", *_inserts(rows_per_insert))).rows == 7


@pytest.fixture(scope="module")
def cut(embedded_server: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Rows as pg_dump wrote them, two statements, each value full of what imitates a row."""
    folder = tmp_path_factory.mktemp("cut")
    with fresh_database(embedded_server) as database:
        _fill(database, ["a\n\t('b'),\n\t(c);\n\tINSERT INTO d\n", None, "\n\t(\n\t(\n", "\n\t(\n"])
        return _dump(database, folder / "out", *_inserts(2)).read_bytes()


def test_a_file_that_ends_too_early_never_counts_as_whole(cut: bytes, tmp_path: Path) -> None:
    file = tmp_path / "cut.dat"
    file.write_bytes(cut)
    assert count_inserted(file).rows == 4
    whole = len(cut.rstrip(b"\n")) + 1
    for end in range(whole):
        file.write_bytes(cut[:end])
        try:
            rows = count_inserted(file).rows
        except BackupError as error:
            assert "ends in the middle of a statement" in str(error)  # noqa: PT017 - or the count is smaller
        else:
            assert rows < 4


def test_an_endless_value_at_the_end_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "endless.dat"
    file.write_bytes(b"INSERT INTO t (a) VALUES\n\t('" + b"x" * 8_000_000)
    with pytest.raises(BackupError, match=r"endless\.dat: .* ends in the middle of a statement"):
        count_inserted(file)


@pytest.mark.parametrize("kept", [0, 5, -1, -3, -5])
def test_copied_rows_without_their_end_are_noticed(database: FreshDatabase, tmp_path: Path, kept: int) -> None:
    database.execute("create table _cdc_t (a text); insert into _cdc_t values ('a'), (E'\\\\.'), (E'\\n')")
    file = _dump(database, tmp_path / "out")
    assert count_copied(file).rows == 3
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BackupError, match="ends in the middle of the rows"):
        count_copied(file)


def test_no_bytes_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.dat").write_bytes(b"")
    assert count_inserted(tmp_path / "empty.dat") == Written(rows=0, largest_statement=0)


def test_the_largest_statement_of_several_rows_is_measured(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create table _cdc_t (a text);
        insert into _cdc_t select repeat('x', 10000) from generate_series(1, 4);
        insert into _cdc_t select repeat('y', 90000);
    """)
    written = count_inserted(_dump(database, tmp_path / "four", *_inserts(4)))
    assert written.rows == 5
    assert 40_000 < written.largest_statement < 41_000
    assert count_inserted(_dump(database, tmp_path / "one", *_inserts(1))).largest_statement == 0
