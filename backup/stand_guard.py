"""The guard of a safe run: from the settings, with a person to be asked, and what it did in words."""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from backup.migration.guard import Guard, Saved, Strike, held_up
from backup.migration.save_newer import SaveNewer
from backup.migration.verdict import Change
from backup.postgres.database import Database
from backup.postgres.locks import Waiting
from backup.postgres.tables import Connection, Table, find_tables
from backup.report import Report, plural, visible
from backup.result import Result
from backup.session.delta import DeltaWriter
from backup.settings import OnDestroy, Settings

_SHOWN = 200
_DROPS = re.compile(r"\bdrop\s+(table|schema|owned|extension|foreign\s+table)\b", re.IGNORECASE)
_TRUNCATES = re.compile(r"\btruncate\b", re.IGNORECASE)
_ONE_BY_ONE = 2
"""Tables of a statement about which a person is asked one by one."""
_NAMED = 3
"""Tables of a statement that are named when it wanted many."""


@contextmanager
def stand_guard(
    database: Database,
    settings: Settings,
    announced: Mapping[int, Change],
    result: Result,
    report: Report,
    *,
    ask: bool,
) -> Iterator[None]:
    """Hold the tables of `result` while the block runs, and save beside its session what is newer than that.

    Args:
        database: where the tables are.
        settings: whether there is a guard, and what becomes of a statement that nobody announced.
        announced: what a person agreed to before that becomes of a table, by OID.
        result: what the session holds; gets what the guard saw.
        report: whom to ask and to tell.
        ask: with `on_destroy: ask`, ask also about what was agreed to before.

    Raises:
        BackupError: a table cannot be had, or is not what was backed up any more.
        DatabaseError: the server cannot be reached.
    """
    if not settings.guard or result.session is None or result.horizon is None or not result.tables:
        if result.tables:
            report.warn("Without the guard: what is written to the CDC tables from now on can be lost.")
        yield
        return

    allowed, given = set[int](), Counter[tuple[int, str]]()

    def decide(waits: Waiting, table: Table) -> str:
        query, statement = waits.query, (waits.pid, waits.since)
        attended = settings.on_destroy is OnDestroy.ASK and report.attended
        agreed = _is_announced(announced.get(table.oid), query) and not (attended and ask)
        if settings.on_destroy is OnDestroy.CONTINUE or agreed:
            return ""
        if not attended:
            return f"it was not announced (backup.on_destroy: {settings.on_destroy})"
        # Who has said yes to some tables of a statement is asked once more, about all others: it can be hundreds.
        if given[statement] <= _ONE_BY_ONE or not waits.since:
            last = given[statement] == _ONE_BY_ONE
            what = "Let it have this one, and all others that it takes?" if last else "Let it go on?"
            question = f"This statement is about to take {table}, and waits:\n  {_short(query)}\n{what}"
            if not report.ask_meanwhile(question, guard.over):
                return "a person said no"
        given[statement] += 1
        allowed.add(table.oid)
        return ""

    save = SaveNewer(writer=DeltaWriter(result.session), horizon=result.horizon, counts=result.counts)
    guard = Guard(
        database,
        result.tables,
        find=partial(find_tables, prefix=settings.prefix, schemas=settings.schemas),
        save=save,
        save_ahead=save.ahead,
        let_go=save.let_go,
        decide=decide,
        tell=report.fail,
    )
    try:
        with guard.standing(settings.lock_timeout):
            yield
    finally:
        result.strikes, result.gaps, result.unguarded = tuple(guard.strikes), dict(guard.gaps), guard.lost
        result.allowed, result.taken = frozenset(allowed), dict(guard.taken)
        _tell(guard.strikes, report)
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

    def decide(waits: Waiting, table: Table) -> str:
        if waits.pid in before:  # somebody else's, and none of our business
            return ""
        against.strikes.append(f"{_short(waits.query)!r} wanted {table}, and was cancelled")
        against.struck.set()
        return "no statement of a rehearsal may reach the real tables"

    find = partial(find_tables, prefix=settings.prefix, schemas=settings.schemas)
    guard = Guard(database, tables, find=find, save=_save_nothing, decide=decide, tell=against.strikes.append)
    with guard.standing(settings.lock_timeout):
        yield against


def _is_announced(change: Change | None, query: str) -> bool:
    """Whether a statement may have a table of which that was announced.

    What a statement does is not known before it has done it; but what only its rows were to lose, no statement needs
    the table for, and one that says so in its text does more than was announced.
    """
    match change:
        case None | Change.ROWS_LOST | Change.ROWS_CHANGED | Change.UNTOUCHED | Change.UNKNOWN:
            return False
        case Change.DROPPED | Change.REPLACED:
            return True
        case Change.EMPTIED:
            return not _DROPS.search(query)
        case _:
            return not _DROPS.search(query) and not _TRUNCATES.search(query)


def _save_nothing(_connection: Connection, _table: Table, _now: Table) -> Saved:
    return Saved(rows=0)


def _tell(strikes: Sequence[Strike], report: Report) -> None:
    """Say what wanted the tables, a sentence for each statement, and how long the guard held up a writer for that."""
    said: dict[tuple[str, str, str, bool], list[Strike]] = {}
    for strike in strikes:
        said.setdefault((strike.transaction, strike.query, strike.refused, strike.gave_up), []).append(strike)
    for (_, query, refused, gave_up), some in said.items():
        names = [visible(name) for name in dict.fromkeys(strike.table for strike in some)]
        more = f" and {len(names) - _NAMED} more tables" if len(names) > _NAMED + 1 else ""
        wanted = ", ".join(names[:_NAMED] if more else names) + more
        waited, rows = sum(strike.waited for strike in some), sum(strike.rows for strike in some)
        what = f"{visible(_short(query))!r} wanted {wanted} and waited {waited * 1000:,.0f} ms"
        if gave_up:
            report.warn(
                f"Guard: {what}. Then it gave up, while the guard held what it wanted. "
                "A longer lock_timeout or statement_timeout lets it wait; backup.guard: off does without the guard."
            )
        elif refused:
            report.warn(f"Guard: {what}. It was cancelled: {refused}.")
        elif rows:
            report.say(f"Guard: {what}, until {plural(rows, 'row')} that the backup does not have were saved.")
        else:
            them = "it" if len(names) == 1 else "them"
            report.say(f"Guard: {what}; there was nothing in {them} that the backup does not have.")
    if strikes:
        report.say(f"Guard: held up a writer for {held_up(strikes) * 1000:,.0f} ms at most.")


def _short(query: str) -> str:
    """A statement in one line, cut off where it is long."""
    line = " ".join(query.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
