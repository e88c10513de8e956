"""The guard of a safe run: from the settings, with a person to be asked, and what it did in words."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from backup.migration.guard import Guard, Saved, Strike
from backup.migration.save_newer import SaveNewer
from backup.postgres.database import Database
from backup.postgres.tables import Connection, Table, find_tables
from backup.report import Report, plural, visible
from backup.result import Result
from backup.session.delta import DeltaWriter
from backup.settings import OnDestroy, Settings

_SHOWN = 200


@contextmanager
def stand_guard(
    database: Database, settings: Settings, announced: frozenset[int], result: Result, report: Report
) -> Iterator[None]:
    """Hold the tables of `result` while the block runs, and save beside its session what is newer than that.

    Args:
        database: where the tables are.
        settings: whether there is a guard, and what becomes of a statement that nobody announced.
        announced: the OIDs of the tables of which a person was told before that they would be taken.
        result: what the session holds; gets what the guard saw.
        report: whom to ask and to tell.

    Raises:
        BackupError: a table cannot be had, or is not what was backed up any more.
        DatabaseError: the server cannot be reached.
    """
    if not settings.guard or result.session is None or result.horizon is None or not result.tables:
        if result.tables:
            report.warn("Without the guard: what is written to the CDC tables from now on can be lost.")
        yield
        return

    def decide(query: str, _pid: int, table: Table) -> str:
        if settings.on_destroy is OnDestroy.CONTINUE or table.oid in announced:
            return ""
        if settings.on_destroy is OnDestroy.STOP or not report.attended:
            return f"it was not announced (backup.on_destroy: {settings.on_destroy})"
        question = f"This statement is about to take {table}, and waits:\n  {_short(query)}\nLet it go on?"
        return "" if report.ask_meanwhile(question, guard.over) else "a person said no"

    save = SaveNewer(writer=DeltaWriter(result.session), horizon=result.horizon, counts=result.counts)
    guard = Guard(
        database,
        result.tables,
        find=partial(find_tables, prefix=settings.prefix, schemas=settings.schemas),
        save=save,
        save_ahead=save.ahead,
        decide=decide,
        tell=report.fail,
    )
    try:
        with guard.standing(settings.lock_timeout):
            yield
    finally:
        result.strikes, result.gaps, result.unguarded = tuple(guard.strikes), dict(guard.gaps), guard.lost
        for strike in guard.strikes:
            _tell(strike, report)
        for name, why in guard.lost.items():
            report.warn(f"  {visible(name)} was not guarded all the time: {why}")


@dataclass(frozen=True, kw_only=True)
class StoodAgainst:
    """What wanted to take a table on which no statement was to lay its hands; `struck` is set with the first."""

    strikes: list[str] = field(default_factory=list)
    struck: threading.Event = field(default_factory=threading.Event)


@contextmanager
def stand_against(database: Database, settings: Settings, tables: Sequence[Table]) -> Iterator[StoodAgainst]:
    """Hold the tables while the block runs, and cancel every statement of a new connection that wants one for itself.

    Raises:
        BackupError: a table cannot be had, or is not what it was.
        DatabaseError: the server cannot be reached.
    """
    against = StoodAgainst()
    with database.connect() as connection:
        before = {pid for (pid,) in connection.execute("select pid from pg_stat_activity")}

    def decide(query: str, pid: int, table: Table) -> str:
        if pid in before:  # somebody else's, and none of our business
            return ""
        against.strikes.append(f"{_short(query)!r} wanted {table}, and was cancelled")
        against.struck.set()
        return "no statement of a rehearsal may reach the real tables"

    find = partial(find_tables, prefix=settings.prefix, schemas=settings.schemas)
    guard = Guard(database, tables, find=find, save=_save_nothing, decide=decide, tell=against.strikes.append)
    with guard.standing(settings.lock_timeout):
        yield against


def _save_nothing(_connection: Connection, _table: Table, _now: Table) -> Saved:
    return Saved(rows=0)


def _tell(strike: Strike, report: Report) -> None:
    what = f"{visible(_short(strike.query))!r} wanted {visible(strike.table)} and waited {strike.waited * 1000:,.0f} ms"
    if strike.refused:
        report.warn(f"Guard: {what}. It was cancelled: {strike.refused}.")
    elif strike.rows:
        report.say(f"Guard: {what}, until {plural(strike.rows, 'row')} that the backup does not have were saved.")
    else:
        report.say(f"Guard: {what}; there was nothing in it that the backup does not have.")


def _short(query: str) -> str:
    """A statement in one line, cut off where it is long."""
    line = " ".join(query.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
