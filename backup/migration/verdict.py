"""What became of the CDC tables: the catalog and the counts before and after the migration, compared."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

import psycopg

from backup.errors import DatabaseError
from backup.postgres.database import Database
from backup.postgres.newer import Horizon
from backup.postgres.recount import SecondLook, look_again
from backup.postgres.snapshot import Count
from backup.postgres.tables import Kind, Table


class Change(StrEnum):
    """What happened to a table, the worst of it."""

    DROPPED = "dropped"
    REPLACED = "replaced"
    RENAMED = "renamed"
    EMPTIED = "emptied"
    ROWS_LOST = "rows lost"
    ROWS_CHANGED = "rows changed"
    COLUMNS_LOST = "columns lost"
    DETACHED = "detached"
    UNTOUCHED = "untouched"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one table. `rows_after` is None where there is no table to count in.

    `rows_changed` are rows of the backup that were updated or deleted since, `rows_added` those there now that the
    backup does not hold, new ones and new versions; None where that cannot be told. Nobody knows who did it, the
    migration or others meanwhile; but `by_others` says that the rehearsal of the migration changed none. `announced`
    says that a person agreed to no less than this, before or at the moment when it happened. `also` are the columns
    that are gone, and another name, whatever happened to the rows. `in_place` says that what was lost can go back
    where it was: the table has no other name, and no fewer columns. `moved_to` is its other name, as schema and name;
    `namesake` says that another table has its own.
    """

    schema: str
    name: str
    change: Change
    rows_before: int
    rows_after: int | None
    rows_added: int | None = None
    rows_changed: int | None = None
    detail: str = ""
    also: tuple[str, ...] = ()
    in_place: bool = True
    announced: bool = False
    by_others: bool = False
    moved_to: tuple[str, str] | None = None
    namesake: bool = False

    @property
    def is_loss(self) -> bool:
        """Whether the table, or something in it, is not where it was; not knowing counts as that."""
        return self.change is not Change.UNTOUCHED and not self.by_others


def judge(
    database: Database,
    before: Sequence[Table],
    counts: Mapping[int, Count],
    announced: Mapping[int, Verdict],
    *,
    allowed: Collection[int] = (),
    safe: Collection[int] = (),
    horizon: Horizon | None = None,
    fingerprints: Mapping[int, str] = MappingProxyType({}),
    gaps: Mapping[int, str] = MappingProxyType({}),
    taken: Mapping[int, int] = MappingProxyType({}),
    unfinished: str = "",
    lock_timeout: float = 30,
) -> tuple[Verdict, ...]:
    """Compare the tables of a snapshot with what the database holds now.

    Never raises for what the database does: what cannot be read has the verdict `unknown`.

    Args:
        database: where the tables are, or were.
        before: the snapshot's tables.
        counts: their rows in it, by OID.
        announced: what a person agreed to that becomes of a table, by OID.
        allowed: the tables that a person, asked at that moment, let a statement have for itself.
        safe: what the rehearsal of the same migration left untouched; rows that changed even so, others changed.
        horizon: the snapshot's; without it an UPDATE shows nowhere, nor a DELETE beside as many INSERTs.
        fingerprints: of the tables in the drill, by OID; without one nothing proves that a table that was rewritten has
            its rows still.
        gaps: why a table was not guarded all the time, by OID; what is lost of it is never as announced.
        taken: how many rows a table had when a statement took it for itself, by OID, those newer than the backup too.
        unfinished: what of the migration still runs on the server; whatever is untouched yet is unknown then.
        lock_timeout: seconds to wait for tables that somebody else has locked.
    """
    try:
        with database.connect() as connection:
            look = look_again(connection, before, counts, horizon, fingerprints, lock_timeout=lock_timeout)
    except (DatabaseError, psycopg.Error) as error:
        look = SecondLook(unreadable=dict.fromkeys((table.oid for table in before), " ".join(str(error).split())))
    by_oid = {table.oid: table for table in look.tables}
    by_name = {(table.schema, table.name): table for table in look.tables}
    verdicts = []
    for table in before:
        rows_before = counts[table.oid].rows if table.oid in counts else 0
        same, namesake = by_oid.get(table.oid), by_name.get((table.schema, table.name))
        now = same or namesake
        cause = look.unreadable.get(now.oid if now else table.oid)
        verdict = _unknown(table, rows_before, cause) if cause else _compare(table, rows_before, same, namesake, look)
        if verdict.change is Change.ROWS_CHANGED and table.oid in safe:
            others = "by others meanwhile, for the rehearsal changed none"
            verdict = replace(verdict, by_others=True, detail=f"{verdict.detail}, {others}")
        if same and not verdict.is_loss and (recount := look.recounts.get(same.oid)) and recount.rewritten:
            verdict = _rewritten(verdict, recount.rows, taken.get(same.oid, 0), gaps.get(same.oid, ""))
        if unfinished and not verdict.is_loss:
            verdict = replace(verdict, change=Change.UNKNOWN, detail=f"still running on the server: {unfinished}")
        if horizon and not verdict.is_loss and table.kind is Kind.ORDINARY and verdict.rows_changed is None:
            blind = "whether rows were updated cannot be told"
            verdict = replace(verdict, detail=", ".join(filter(None, (verdict.detail, blind))))
        gap = gaps.get(table.oid) if verdict.is_loss else None
        if gap:
            verdict = replace(verdict, detail=", ".join(filter(None, (verdict.detail, gap))))
        agreed = _is_as(verdict, announced.get(table.oid)) or (table.oid in allowed and _is_taken(verdict, look, now))
        verdicts.append(replace(verdict, announced=not gap and agreed))
    return tuple(verdicts)


def _rewritten(verdict: Verdict, rows: int, taken: int, gap: str) -> Verdict:
    """The verdict on a table that was emptied or written anew and holds what the backup does: newer rows may be gone.

    `taken` rows were there when a statement took it; why it was not held then is the `gap`.
    """
    if fewer := max(0, taken - rows):
        change = Change.ROWS_LOST if rows else Change.EMPTIED
        detail = f"{_rows(fewer)} fewer than when a statement took it, written after the backup"
        return replace(verdict, change=change, detail=detail)
    if gap:
        return replace(verdict, change=Change.UNKNOWN, detail="it was emptied or written anew while nobody held it")
    return verdict


def _is_as(verdict: Verdict, told: Verdict | None) -> bool:
    """Whether not more is lost than was told."""
    if told and not set(verdict.also) <= set(told.also):
        return False
    match told.change if told else None, verdict.change:
        case Change.EMPTIED, Change.EMPTIED | Change.ROWS_LOST | Change.ROWS_CHANGED:
            return True  # others go on writing to it
        case Change.DROPPED | Change.REPLACED as change, now:
            return change is now
        case (Change.ROWS_LOST, Change.ROWS_LOST) | (Change.ROWS_CHANGED, Change.ROWS_CHANGED):
            return told is not None and _struck(verdict) <= _struck(told)
        case change, now:
            return told is not None and change is now and verdict.detail == told.detail


def _is_taken(verdict: Verdict, look: SecondLook, now: Table | None) -> bool:
    """Whether this is what only a statement does that has the table for itself: no DELETE, and no UPDATE."""
    if verdict.change is Change.EMPTIED:
        recount = look.recounts.get(now.oid) if now else None
        return recount is not None and recount.rewritten
    return verdict.change in (
        Change.DROPPED,
        Change.REPLACED,
        Change.RENAMED,
        Change.DETACHED,
        Change.COLUMNS_LOST,
    )


def _struck(verdict: Verdict) -> int:
    """How many rows of the backup are not as they were, as far as that is known."""
    fewer = verdict.rows_before - (verdict.rows_after or 0)
    return fewer if verdict.rows_changed is None else verdict.rows_changed


def _compare(before: Table, rows_before: int, same: Table | None, namesake: Table | None, look: SecondLook) -> Verdict:
    """The verdict on a table, from what has its OID and what has its name now."""
    now = same or namesake
    recount = look.recounts.get(now.oid) if now else None
    rows_after = None if now is None else recount.rows if recount else 0
    fewer = rows_before - (rows_after or 0)
    kept = recount.kept if recount and same else None
    changed = None if kept is None else rows_before - kept
    added = None if kept is None or rows_after is None else rows_after - kept
    moved = [f"it is {same} now"] if same and (same.schema, same.name) != (before.schema, before.name) else []
    lost = _lost_columns(before, same) if same else []
    in_place = not moved and not lost
    details = [*lost, *moved]
    touched = [f"{_rows(changed)} of the backup updated or deleted"] if changed else []
    if now is None:
        change = Change.DROPPED
    elif same is None:
        change, details = Change.REPLACED, ["another table has its name now"]
        in_place = {(c.name, c.type) for c in before.columns} <= {(c.name, c.type) for c in now.columns}
    elif rows_before and not rows_after:
        change = Change.EMPTIED
    elif fewer > 0:
        change = Change.ROWS_LOST
        details = [f"{fewer:,} fewer", *(touched if changed != fewer else []), *details]
    elif changed:
        change, details = (
            Change.ROWS_CHANGED,
            [*touched, *([f"{-fewer:,} more than before"] if fewer else []), *details],
        )
    elif lost:
        change = Change.COLUMNS_LOST
    elif recount and recount.rewritten and kept is None:
        change, details = Change.UNKNOWN, ["it was rewritten, and nothing proves that its rows are still the same"]
    elif moved:
        change = Change.RENAMED
    elif set(before.parents) - set(same.parents):
        change, details = Change.DETACHED, ["it is no partition or child of its table any more"]
    else:
        change = Change.UNTOUCHED
        details = [f"{_rows(-fewer)} more, written meanwhile"] if fewer < 0 else []
        details += _renamed_columns(before, same)
    return Verdict(
        schema=before.schema,
        name=before.name,
        change=change,
        rows_before=rows_before,
        rows_after=rows_after,
        rows_added=added,
        rows_changed=changed,
        detail=", ".join(details),
        also=(*lost, *moved),
        in_place=in_place,
        moved_to=(same.schema, same.name) if same and moved else None,
        namesake=namesake is not None and namesake is not same,
    )


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


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


def _renamed_columns(before: Table, after: Table) -> list[str]:
    now = {column.number: column.name for column in after.columns}
    return [f"{c.name} is called {now[c.number]} now" for c in before.columns if now[c.number] != c.name]


def _unknown(table: Table, rows_before: int, cause: str) -> Verdict:
    return Verdict(
        schema=table.schema,
        name=table.name,
        change=Change.UNKNOWN,
        rows_before=rows_before,
        rows_after=None,
        detail=cause,
    )
