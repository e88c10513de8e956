"""Rows that are newer than a snapshot, told exactly and without keeping a transaction open for it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from backup.postgres.tables import Connection, Kind, Table

_TABLES_A_QUERY = 500
_NOTED = 100_000
"""Rows of a table that are noted at most: a transaction that is open for days would make them millions."""

# By age, not by pg_visible_in_snapshot: a subtransaction's xid stands in no snapshot's list, and that of a frozen
# row may have come round. So this is a superset of the newer rows; those in it that the snapshot showed are noted
# when it is taken, and left out afterwards. Without a lower bound: a transaction computes age() from the newest
# xid that it saw first, and what came after that is less than 0 old.
_CANDIDATE = "pg_catalog.age(xmin) <= pg_catalog.age({xmin}::pg_catalog.xid)"

_PLACE = sql.SQL("ctid::pg_catalog.text || ' ' || xmin::pg_catalog.text")


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """What tells the rows that came after a snapshot from those that it showed.

    `xmin` is the oldest transaction that was running then. `noted` are, by the table's OID, the rows (ctid and
    xmin) that the snapshot showed and that may be no older than that; None where they are too many.
    """

    xmin: str
    noted: dict[int, tuple[str, ...] | None]


def mark_horizon(connection: Connection, tables: Sequence[Table]) -> Horizon:
    """The horizon of the snapshot that the connection is in."""
    row = connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::xid::text").fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    xmin = str(row[0])
    tables_with_rows = [table for table in tables if table.kind is Kind.ORDINARY]
    counted = dict(_look(connection, tables_with_rows, xmin, sql.SQL("pg_catalog.count(*)")))
    some = [table for table in tables_with_rows if 0 < counted[table.oid] <= _NOTED]
    found: dict[int, list[str]] = defaultdict(list)
    for oid, place in _look(connection, some, xmin, _PLACE):
        found[oid].append(place)
    return Horizon(
        xmin=xmin,
        noted={oid: tuple(found[oid]) if number <= _NOTED else None for oid, number in counted.items()},
    )


def newer_than(horizon: Horizon, table: Table) -> sql.Composable:
    """The condition of the table's rows that the snapshot did not show; of all where that cannot be told."""
    noted = horizon.noted.get(table.oid)
    if noted is None:
        return sql.SQL("true")
    candidate = sql.SQL(_CANDIDATE).format(xmin=horizon.xmin)
    if not noted:
        return candidate
    return sql.SQL("({} and {} not in (select pg_catalog.unnest({}::pg_catalog.text[])))").format(
        candidate, _PLACE, list(noted)
    )


def written_before(horizon: Horizon, table: Table) -> sql.Composable | None:
    """The condition of the rows that a transaction wrote which the snapshot showed; None where that is not known.

    It holds also where VACUUM FULL or CLUSTER gave the rows other places.
    """
    noted = horizon.noted.get(table.oid)
    if noted is None:
        return None
    return sql.SQL("(not {} or xmin::pg_catalog.text = any({}::pg_catalog.text[]))").format(
        sql.SQL(_CANDIDATE).format(xmin=horizon.xmin), [place.split()[1] for place in noted]
    )


def _look(
    connection: Connection, tables: Sequence[Table], xmin: str, what: sql.Composable
) -> Iterator[tuple[int, Any]]:
    """`what` there is of the candidates in each table, by OID."""
    candidate = sql.SQL(_CANDIDATE).format(xmin=xmin)
    for start in range(0, len(tables), _TABLES_A_QUERY):
        query = sql.SQL(" union all ").join(
            sql.SQL("select {}::pg_catalog.int8, {} from only {} where {}").format(
                table.oid, what, table.identifier, candidate
            )
            for table in tables[start : start + _TABLES_A_QUERY]
        )
        yield from connection.execute(query)
