"""What became of the CDC tables: the catalog and the counts before and after the migration, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import psycopg

from backup.errors import DatabaseError
from backup.postgres.database import Database
from backup.postgres.snapshot import Count, count_rows
from backup.postgres.tables import Table, find_tables_by

_LOCK_TIMEOUT = "30s"
"""A killed migration tool leaves its statement running on the server, which may hold the tables for a while."""


class Change(StrEnum):
    """What happened to a table, the worst of it."""

    DROPPED = "dropped"
    REPLACED = "replaced"
    RENAMED = "renamed"
    EMPTIED = "emptied"
    ROWS_LOST = "rows lost"
    COLUMNS_LOST = "columns lost"
    DETACHED = "detached"
    UNTOUCHED = "untouched"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one table. `rows_after` is None where there is no table to count in.

    `announced` says that a person was told before that exactly this would become of it. `in_place` says that
    what was lost can go back where it was: the table has no other name, and no fewer columns.
    """

    schema: str
    name: str
    change: Change
    rows_before: int
    rows_after: int | None
    detail: str = ""
    in_place: bool = True
    announced: bool = False

    @property
    def is_loss(self) -> bool:
        """Whether the table, or something in it, is not where it was; not knowing counts as that."""
        return self.change is not Change.UNTOUCHED


def judge(
    database: Database, before: Sequence[Table], counts: Mapping[int, Count], announced: Mapping[int, Change]
) -> tuple[Verdict, ...]:
    """Compare the tables of a snapshot with what the database holds now.

    Never raises for what the database does: what cannot be read has the verdict `unknown`.
    """
    try:
        with database.connect() as connection:
            connection.execute("set row_security = off")
            connection.execute("select set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
            with connection.transaction():
                after = find_tables_by(connection, [t.oid for t in before], [(t.schema, t.name) for t in before])
                rows = {oid: count.rows for oid, count in count_rows(connection, after).items()}
    except (DatabaseError, psycopg.Error) as error:
        return tuple(_unknown(table, _rows(counts, table), str(error)) for table in before)
    by_oid = {table.oid: table for table in after}
    by_name = {(table.schema, table.name): table for table in after}
    verdicts = (
        _compare(table, _rows(counts, table), by_oid.get(table.oid), by_name.get((table.schema, table.name)), rows)
        for table in before
    )
    return tuple(
        replace(verdict, announced=announced.get(table.oid) is verdict.change)
        for table, verdict in zip(before, verdicts, strict=True)
    )


def _compare(
    before: Table, rows_before: int, same: Table | None, namesake: Table | None, rows: Mapping[int, int]
) -> Verdict:
    """The verdict on a table, from what has its OID and what has its name now."""
    now = same or namesake
    rows_after = None if now is None else rows.get(now.oid, 0)
    fewer = rows_before - (rows_after or 0)
    moved = [f"it is {same} now"] if same and (same.schema, same.name) != (before.schema, before.name) else []
    lost = _lost_columns(before, same) if same else []
    in_place = not moved and not lost
    details = [*lost, *moved]
    if now is None:
        change = Change.DROPPED
    elif same is None:
        change, details = Change.REPLACED, ["another table has its name now"]
        in_place = {(c.name, c.type) for c in before.columns} <= {(c.name, c.type) for c in now.columns}
    elif rows_before and not rows_after:
        change = Change.EMPTIED
    elif fewer > 0:
        change, details = Change.ROWS_LOST, [f"{fewer:,} fewer", *details]
    elif lost:
        change = Change.COLUMNS_LOST
    elif moved:
        change = Change.RENAMED
    elif set(before.parents) - set(same.parents):
        change, details = Change.DETACHED, ["it is no partition or child of its table any more"]
    else:
        change, details = Change.UNTOUCHED, [f"{-fewer:,} rows more"] if fewer < 0 else []
    return Verdict(
        schema=before.schema,
        name=before.name,
        change=change,
        rows_before=rows_before,
        rows_after=rows_after,
        detail=", ".join(details),
        in_place=in_place,
    )


def _lost_columns(before: Table, after: Table) -> list[str]:
    """The columns that are gone or hold values of another type, by number: a renamed one keeps its values."""
    now = {column.number: column for column in after.columns}
    lost = []
    for column in before.columns:
        if column.number not in now:
            lost.append(f"{column.name} is gone")
        elif now[column.number].type != column.type:
            lost.append(f"{column.name} was {column.type} and is {now[column.number].type}")
    return lost


def _rows(counts: Mapping[int, Count], table: Table) -> int:
    return counts[table.oid].rows if table.oid in counts else 0


def _unknown(table: Table, rows_before: int, cause: str) -> Verdict:
    return Verdict(
        schema=table.schema,
        name=table.name,
        change=Change.UNKNOWN,
        rows_before=rows_before,
        rows_after=None,
        detail=" ".join(cause.split()),
    )
