"""Rows that are newer than a snapshot, told exactly and without keeping a transaction open for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from backup.postgres.tables import Connection, Kind, Table

_TABLES_A_QUERY = 500
_NOTED = 100_000
"""Transactions that are noted of a table at most: while one is open for days, there can be millions of others."""

# By age, not by pg_visible_in_snapshot: a subtransaction's xid stands in no snapshot's list, and that of a frozen
# row may have come round. So this is a superset of the newer rows. Those in it that the snapshot showed were written
# by transactions that were over by then and write no more: these are noted when it is taken, and their rows left out
# afterwards. Without a lower bound: a transaction computes age() from the newest xid that it saw first, and what came
# after that is less than 0 old.
_CANDIDATE = "pg_catalog.age(xmin) <= pg_catalog.age({xmin}::pg_catalog.xid)"


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """What tells the rows that came after a snapshot from those that it showed.

    `xmin` is the oldest transaction that was running then. `noted` are, by the table's OID, the transactions that
    are no older than that and wrote rows which the snapshot showed; None where they are too many.
    """

    xmin: str
    noted: dict[int, tuple[str, ...] | None]


def mark_horizon(connection: Connection, tables: Sequence[Table]) -> Horizon:
    """The horizon of the snapshot that the connection is in."""
    row = connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::xid::text").fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    xmin, found = str(row[0]), dict[int, list[str]]()
    candidate = sql.SQL(_CANDIDATE).format(xmin=xmin)
    with_rows = [table for table in tables if table.kind is Kind.ORDINARY]
    for start in range(0, len(with_rows), _TABLES_A_QUERY):
        query = sql.SQL(" union all ").join(
            sql.SQL(
                "select {}::pg_catalog.int8,"
                " array(select distinct xmin::pg_catalog.text from only {} where {} limit {})"
            ).format(table.oid, table.identifier, candidate, _NOTED + 1)
            for table in with_rows[start : start + _TABLES_A_QUERY]
        )
        found |= dict(connection.execute(query).fetchall())
    return Horizon(xmin=xmin, noted={oid: tuple(xids) if len(xids) <= _NOTED else None for oid, xids in found.items()})


def newer_than(horizon: Horizon, table: Table) -> sql.Composable:
    """The condition of the table's rows that the snapshot did not show; of all where that cannot be told.

    It holds also where VACUUM FULL or CLUSTER gave the rows other places.
    """
    noted = horizon.noted.get(table.oid)
    if noted is None:
        return sql.SQL("true")
    candidate = sql.SQL(_CANDIDATE).format(xmin=horizon.xmin)
    if not noted:
        return candidate
    return sql.SQL("({} and xmin::pg_catalog.text not in (select pg_catalog.unnest({}::pg_catalog.text[])))").format(
        candidate, list(noted)
    )


def written_before(horizon: Horizon, table: Table) -> sql.Composable | None:
    """The condition of the rows that the snapshot showed; None where that is not known."""
    if horizon.noted.get(table.oid) is None:
        return None
    return sql.SQL("not {}").format(newer_than(horizon, table))
