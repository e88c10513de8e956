"""Tables looked at again, all at one moment: what has their OIDs and names now, and what became of their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from backup.postgres.fingerprint import SETTINGS, count_and_fingerprint
from backup.postgres.newer import Horizon, newer_than, written_before
from backup.postgres.snapshot import Count
from backup.postgres.tables import Connection, Kind, Table, find_tables_by

_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Recount:
    """The rows of a table now; `kept` are those of the snapshot that nothing touched, None where nobody can know.

    `rewritten`: it was truncated, or all its rows were written anew.
    """

    rows: int
    kept: int | None
    rewritten: bool = False


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """What there is now: `tables`, their rows by OID, and why those without rows there could not be counted."""

    tables: tuple[Table, ...] = ()
    recounts: dict[int, Recount] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


def look_again(
    connection: Connection,
    tables: Sequence[Table],
    counts: Mapping[int, Count],
    horizon: Horizon | None,
    fingerprints: Mapping[int, str],
    *,
    lock_timeout: float,
) -> SecondLook:
    """Look for `tables` again, with `counts` and `horizon` as they were. `lock_timeout` is in seconds, for all.

    `fingerprints` are those of the drill, by OID, which prove that a table that was rewritten has its rows still.

    Locks come first, as in `take_snapshot`. A table that cannot be locked or read is told as such and keeps no
    other from being read.

    Raises:
        psycopg.Error: the connection is lost.
    """
    connection.execute("set row_security = off")
    oids, names = [table.oid for table in tables], [(table.schema, table.name) for table in tables]
    for _ in range(_ATTEMPTS):
        found = find_tables_by(connection, oids, names)
        connection.execute("begin isolation level repeatable read, read only")
        unreadable = _lock(connection, [t for t in found if t.kind is not Kind.FOREIGN], lock_timeout)
        if find_tables_by(connection, oids, names) == found:
            break
        connection.execute("rollback")
    else:
        return SecondLook(unreadable=dict.fromkeys(oids, "it does not stand still: somebody goes on altering tables"))
    recounts, columns = {}, {table.oid: [column.name for column in table.columns] for table in tables}
    for table in found:
        if table.kind is Kind.ORDINARY and table.oid not in unreadable:
            try:
                with connection.transaction():
                    proof = (fingerprints.get(table.oid, ""), columns.get(table.oid, ()))
                    recounts[table.oid] = _recount(connection, table, counts.get(table.oid), horizon, proof)
            except psycopg.Error as error:
                unreadable[table.oid] = _tell(connection, error)
    connection.execute("rollback")
    return SecondLook(tables=found, recounts=recounts, unreadable=unreadable)


def _lock(connection: Connection, tables: Sequence[Table], lock_timeout: float) -> dict[int, str]:
    """Lock the tables; why some could not be, by OID. Takes no snapshot: neither SET nor LOCK nor SAVEPOINT does."""
    if not tables:
        return {}
    unreadable: dict[int, str] = {}
    try:
        with connection.transaction():
            _lock_in(connection, tables, lock_timeout)
    except psycopg.Error as error:
        _tell(connection, error)
        for table in tables:
            try:
                with connection.transaction():
                    _lock_in(connection, [table], 0.1)  # all had their time together
            except psycopg.errors.LockNotAvailable:
                unreadable[table.oid] = "somebody holds it locked"
            except psycopg.Error as refused:
                unreadable[table.oid] = _tell(connection, refused)
    return unreadable


def _lock_in(connection: Connection, tables: Sequence[Table], lock_timeout: float) -> None:
    connection.execute(sql.SQL("set local lock_timeout = {}").format(int(lock_timeout * 1000)))
    connection.execute(
        sql.SQL("lock table {} in access share mode").format(
            sql.SQL(", ").join(sql.SQL("only {}").format(table.identifier) for table in tables)
        )
    )


def _tell(connection: Connection, error: psycopg.Error) -> str:
    if connection.closed:
        raise error
    return " ".join(str(error).split())


def _recount(
    connection: Connection,
    table: Table,
    before: Count | None,
    horizon: Horizon | None,
    proof: tuple[str, Sequence[str]],
) -> Recount:
    """With n rows that the snapshot did not show, all others are of it, and nobody touched them since.

    `proof` is the fingerprint of the rows of the snapshot, empty where it is not known, and of which columns.
    """
    older = written_before(horizon, table) if horizon else None
    if horizon is None or older is None or before is None:
        return Recount(rows=_ask(connection, table, sql.SQL("0"))[0], kept=None)
    newer = sql.SQL("pg_catalog.count(*) filter (where {})").format(newer_than(horizon, table))
    rows, new, filenode = _ask(connection, table, newer)
    if filenode == before.filenode:
        return Recount(rows=rows, kept=rows - new)
    # VACUUM FULL leaves a row its transaction, and gives it another place; whatever else writes all rows anew leaves
    # no row of before, and then nothing but their own hash tells whether they are the same.
    old = _ask(connection, table, sql.SQL("pg_catalog.count(*) filter (where {})").format(older))[1]
    if not old and before.rows:
        same = _are_written_anew(connection, table, *proof)
        return Recount(rows=rows, kept=before.rows if same else None, rewritten=True)
    return Recount(rows=rows, kept=old, rewritten=True)


def _are_written_anew(connection: Connection, table: Table, fingerprint: str, columns: Sequence[str]) -> bool:
    """Whether the rows that one transaction wrote, the one that wrote the most, are those of the fingerprint."""
    if not fingerprint or not set(columns) <= {column.name for column in table.columns}:
        return False
    row = connection.execute(
        sql.SQL(
            "select xmin::pg_catalog.text from only {} group by 1 order by pg_catalog.count(*) desc limit 1"
        ).format(table.identifier)
    ).fetchone()
    connection.execute(SETTINGS)
    written = sql.SQL("xmin::pg_catalog.text = {}").format(row[0] if row else "")
    found = connection.execute(count_and_fingerprint(table.identifier, columns, written)).fetchone()
    return found is not None and found[1] == fingerprint


def _ask(connection: Connection, table: Table, what: sql.Composable) -> tuple[int, int, int]:
    row = connection.execute(
        sql.SQL(
            "select pg_catalog.count(*), {}, pg_catalog.pg_relation_filenode({})::pg_catalog.int8 from only {}"
        ).format(what, table.oid, table.identifier)
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row[0], row[1], row[2]
