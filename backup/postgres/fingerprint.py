"""A table's fingerprint: how many rows it has, and a hash of them that no order changes."""

from collections.abc import Sequence

from psycopg import sql

from backup.errors import RestoreError
from backup.postgres.tables import Connection, Table

SETTINGS = """\
SET LOCAL datestyle = 'ISO';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL timezone = 'UTC';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex'"""
"""Under these a value has one text form, which shows all of it: `-0`, trailing zeros, the padding of char."""


_FINGERPRINT = sql.SQL(
    "pg_catalog.concat_ws(':', pg_catalog.count(*){chosen}, pg_catalog.sum({hash}){chosen}::pg_catalog.text)"
)
# The first half of the MD5 as a number. Taken both halves, the hash is computed twice, or in a subquery, which the
# server does not share out among its processes: it is the text of the rows that takes the time.
_HASH = sql.SQL(
    "('x' || pg_catalog.left(pg_catalog.md5(row({})::pg_catalog.text), 16))::pg_catalog.bit(64)::pg_catalog.int8"
)


def fingerprint(table: sql.Composable, columns: Sequence[str]) -> sql.Composed:
    """The expression of a table's fingerprint, `rows:hash`, to be computed under `SETTINGS`.

    The hash is the sum of 64 bits of each row's MD5, so that the same row twice counts twice. A row's
    text has its columns by name, so that their order does not count; in it NULL differs from an empty text.
    """
    return sql.SQL("(select {} from only {} as r)").format(_sum(columns, sql.SQL("")), table)


def count_and_fingerprint(table: sql.Composable, columns: Sequence[str], where: sql.Composable) -> sql.Composed:
    """A query for the number of a table's rows, and for the fingerprint of those that `where` chooses."""
    chosen = sql.SQL(" filter (where {})").format(where)
    return sql.SQL("select pg_catalog.count(*), {} from only {} as r").format(_sum(columns, chosen), table)


def _sum(columns: Sequence[str], chosen: sql.Composable) -> sql.Composed:
    row = sql.SQL(", ").join(sql.Identifier("r", name) for name in sorted(columns))
    return _FINGERPRINT.format(hash=_HASH.format(row), chosen=chosen)


def add_fingerprints(one: str, other: str) -> str:
    """The fingerprint of the rows of both together.

    Raises:
        RestoreError: one of them is of another form, so that they have no sum.
    """
    # Of no rows there is no sum, and the fingerprint is their number alone.
    parts = [[int(part) for part in text.split(":")] for text in (one, other) if text != "0"]
    if len({len(numbers) for numbers in parts}) > 1:
        raise RestoreError(f"{one} and {other} are no fingerprints of one form.", untouched="Nothing was changed.")
    return ":".join(str(sum(part)) for part in zip(*parts, strict=True)) or "0"


def fingerprint_tables(connection: Connection, tables: Sequence[Table]) -> dict[int, str]:
    """The fingerprints of `tables`, by OID, computed by the server."""
    found = {}
    with connection.transaction():
        connection.execute(SETTINGS)
        for table in tables:
            expression = fingerprint(table.identifier, [column.name for column in table.columns])
            row = connection.execute(sql.SQL("select {}").format(expression)).fetchone()
            found[table.oid] = str(row[0]) if row else ""
    return found
