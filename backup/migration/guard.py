"""Holds the CDC tables while the migration runs, and saves what is new in one before a statement takes it."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import psycopg

from backup.errors import BackupError, CDCBackupError
from backup.postgres.database import Database
from backup.postgres.holding import Holding
from backup.postgres.locks import Standing, Waiting, find_standing, find_waiting
from backup.postgres.tables import Connection, Kind, Table
from backup.session.statements import one_line

_PAUSE = 0.01
"""Seconds between two looks."""

_SHARE = 4
"""After a look that took long, so many times as long, so that it is a small part of the server's work."""

_PATIENCE = 2.0
"""Seconds for which a statement waits because another table cannot be held on while one is let go.

Somebody else wants that one then, and waits for a third: it may be the statement's own tool, and nobody but us
could end that.
"""

_AFTERWARDS = 30.0
"""Seconds for which statements that wait for us are seen to after the command has ended."""

ALONE = 0x6364632D67756172
"""The advisory lock that keeps two guards of a database apart: each would wait for the other to let go."""

_ADOPTION = 1.0
"""Seconds between two looks for tables that were made meanwhile."""

_RETRY = 0.5
"""Seconds between two attempts to reach a server that is gone."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How many rows were saved, or why they could not be."""

    rows: int
    missed: str = ""


Save = Callable[[Connection, Table, Table], Saved]
"""Saves what is new in a table.

Gets a connection that holds it, the table as it was backed up, and the same with the name that it has now.
"""

Decide = Callable[[str, int, Table], str]
"""Why a statement, of a process of the server, must not have the table; empty where it may."""

Find = Callable[[Connection], Sequence[Table]]
"""Finds the CDC tables that there are."""

Tell = Callable[[str], None]
"""Says what cannot wait until the command has ended."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A statement that wanted a CDC table for itself alone, and what became of it.

    `table` is its name, `rows` is what was saved of it. For `waited` seconds the statement, and with it whoever
    wanted to write to the table, was held up. `refused` says why it was cancelled; it is empty where it went on.
    """

    query: str
    table: str
    rows: int
    waited: float
    refused: str


class Guard:
    """Tables that are held while something runs, and what happened to them meanwhile.

    `gaps` are tables that nobody held for a while, by OID, with the reason: what was written to them then, and
    destroyed before they were held again, is lost. `over` is set when what was run has ended.
    """

    def __init__(
        self, database: Database, tables: Sequence[Table], *, find: Find, save: Save, decide: Decide, tell: Tell
    ) -> None:
        self.strikes: list[Strike] = []
        self.gaps: dict[int, str] = {}
        self._database = database
        self._tables = {table.oid: table for table in tables if table.kind is not Kind.FOREIGN}
        self._find = find
        self._save = save
        self._tell = tell
        self._decide = decide
        self._backed_up = frozenset(self._tables)
        self._files: dict[int, int | None] = {}
        self._decided: dict[tuple[int, str, int], str] = {}
        self._unsaved: set[tuple[int, str, int]] = set()
        self._stuck_since: float | None = None
        self._look_again_at = 0.0
        self.over = threading.Event()

    @property
    def lost(self) -> dict[str, str]:
        """The tables of `gaps` by name, also those that were made after the backup."""
        return {str(self._tables[oid]): why for oid, why in self.gaps.items()}

    @contextmanager
    def standing(self, lock_timeout: float) -> Iterator[None]:
        """Hold the tables for as long as the block lasts, and until nothing waits for them any more.

        Args:
            lock_timeout: seconds to wait for each lock.

        Raises:
            BackupError: a table cannot be had, or is not what was backed up any more.
            DatabaseError: the server cannot be reached.
        """
        # Not left here but by the thread: it makes connections of its own.
        connections = ExitStack()
        try:
            holding = Holding(partial(self._connect, connections))
            self._begin(holding, lock_timeout)
        except BaseException:
            connections.close()
            raise
        watcher = threading.Thread(target=self._stand, args=(connections, holding), name="guard")
        watcher.start()
        try:
            yield
        finally:
            self.over.set()
            watcher.join()

    def _begin(self, holding: Holding, lock_timeout: float) -> None:
        """Take the tables, and see that they are what they were."""
        watch = holding.watch
        if not _alone(watch):
            raise BackupError(
                f"Another run rehearses or migrates in {self._database} right now.",
                untouched="The migration was not started.",
                remedy="Run this again when it is over.",
            )
        if not holding.take(self._tables.values(), lock_timeout) or not self._are_still(self._find(watch)):
            raise BackupError(
                "The CDC tables are not what they were a moment ago: one was created, dropped or altered since, "
                f"or is locked for longer than lock_timeout ({lock_timeout:g} s).",
                untouched="The migration was not started.",
                remedy="Run this again, when nobody else changes them.",
            )
        self._files = {oid: now.file for oid, now in find_standing(watch, self._tables).items()}

    def _connect(self, connections: ExitStack) -> Connection:
        return connections.enter_context(self._database.connect())

    def _are_still(self, now: Sequence[Table]) -> bool:
        def shape(tables: Iterable[Table]) -> set[tuple[object, ...]]:
            return {(t.oid, t.schema, t.name, t.columns) for t in tables if t.kind is not Kind.FOREIGN}

        return shape(now) == shape(self._tables.values())

    def _stand(self, connections: ExitStack, holding: Holding) -> None:
        """The guard's thread: look on; where a connection is lost, go on with the others and another one."""
        with connections:
            while True:
                try:
                    self._look_on(holding)
                    holding.end()
                    return
                except (CDCBackupError, psycopg.Error) as error:
                    why = f"the guard lost its connection at {time.strftime('%H:%M:%S')}: {one_line(str(error))}"
                except Exception as error:  # noqa: BLE001 - a bug of ours must not look like a table that was held
                    self.gaps |= dict.fromkeys(self._tables, f"the guard failed: {error!r}")
                    return
                if not self._mend(connections, holding, why):
                    return

    def _mend(self, connections: ExitStack, holding: Holding, why: str) -> bool:
        """Replace the connections that are lost, while the others hold what they hold; False once all is over."""
        gone, refused = holding.mend(), False
        while True:
            self.gaps = {**dict.fromkeys(gone, why), **self.gaps}
            with suppress(CDCBackupError, psycopg.Error):
                if not holding.watch.closed:
                    return True
                watch = self._connect(connections)
                if _alone(watch):
                    holding.watch = watch
                    return True
                watch.close()
                # At first it may be the session that we lost. Another guard and we would wait for each other.
                gone, refused = holding.leave() if refused else gone, True
            if self.over.wait(_RETRY):
                self.gaps = {**dict.fromkeys(holding.leave(), why), **self.gaps}
                return False

    def _look_on(self, holding: Holding) -> None:
        """Look who waits for us, until the command and all that it left on the server have ended."""
        deadline = None
        while True:
            began = time.monotonic()
            over = self.over.is_set()
            waiting = find_waiting(holding.watch, holding.pids, holding.held)
            looked = time.monotonic() - began
            if ending := {pid for waits in waiting if waits.oid is None for pid in waits.blockers}:
                holding.renew(ending)
            let_go = self._see_to(holding, [waits for waits in waiting if waits.oid in holding.held], began)
            regained = holding.regain()
            self._note_regained(regained)
            self.gaps |= dict.fromkeys(holding.slipped, "it was renamed, and gone before it could be held again")
            # Who makes a partition has to have the partitioned table for himself.
            if began > self._look_again_at or any(self._tables[oid].kind is Kind.PARTITIONED for oid in regained):
                self._adopt(holding)
            now = time.monotonic()
            if over and not waiting:
                return
            if over and now > (deadline := deadline or now + _AFTERWARDS):
                for waits in waiting:
                    if waits.oid is not None:
                        self.gaps[waits.oid] = f"{one_line(waits.query)[:100]} still waited for it when we left"
                return
            if not let_go:
                holding.pause(max(_PAUSE, _SHARE * looked))

    def _see_to(self, holding: Holding, waiting: Sequence[Waiting], seen: float) -> bool:
        """Let those statements go on that wait for nobody but us; whether any did."""
        ready: dict[int, Waiting] = {}
        for waits in waiting:
            assert waits.oid is not None  # noqa: S101 - these wait for a table
            if waits.blockers <= holding.pids and not self._refused(holding, waits, waits.oid):
                ready[waits.oid] = waits
        if not ready:
            self._stuck_since = None
            return False
        self._stuck_since = self._stuck_since or seen
        held, saved = holding.held, dict[int, Saved]()

        def save(connection: Connection, now: Table) -> None:
            saved[now.oid] = self._save(connection, self._tables[now.oid], now)

        try:
            if not holding.let_go(self._letting(ready, waiting, held, seen), save):
                holding.look_again()
                return False
        except (BackupError, OSError, psycopg.Error) as error:
            if holding.broken:
                raise
            for oid, waits in ready.items():
                self._refused(holding, waits, oid, f"what is new in it could not be saved: {one_line(str(error))}")
            return False
        self._stuck_since = None
        self.gaps |= {oid: done.missed for oid, done in saved.items() if done.missed}
        for oid, waits in ready.items():
            waited, table = waits.seconds + time.monotonic() - seen, str(self._tables[oid])
            self.strikes.append(Strike(query=waits.query, table=table, rows=saved[oid].rows, waited=waited, refused=""))
        return True

    def _letting(
        self, ready: Collection[int], waiting: Sequence[Waiting], held: Collection[int], now: float
    ) -> Collection[int]:
        """What to let go: what is ready, and after some patience also what somebody else keeps us from holding on."""
        assert self._stuck_since is not None  # noqa: S101 - set since something is ready
        stuck = now - self._stuck_since
        if stuck <= _PATIENCE:
            return ready
        wanted = {waits.oid for waits in waiting if waits.oid is not None}
        letting = wanted if stuck <= 2 * _PATIENCE else set(held)
        why = "it was let go before it was still, because somebody else waited for it and for others"
        self.gaps |= {oid: why for oid in letting if oid not in ready}
        return letting

    def _refused(self, holding: Holding, waits: Waiting, oid: int, unsaved: str = "") -> bool:
        """Decide, once for each statement and table, whether it may have it; cancel the statement if not.

        What was decided against, and may not be cancelled by this role, goes on, because it is saved. What is
        `unsaved`, for that reason, is kept waiting.
        """
        key, began = _key(waits, oid), time.monotonic()
        new = key not in self._decided or bool(unsaved)
        if new:
            adopted = oid not in self._backed_up
            self._decided[key] = unsaved or ("" if adopted else self._decide(waits.query, waits.pid, self._tables[oid]))
            self._unsaved |= {key} if unsaved else set()
        why, saving = self._decided[key], key in self._unsaved
        if not why:
            return False
        # While a person thinks the statement may give up, and its process run another.
        if new and key not in {_key(w, oid) for w in find_waiting(holding.watch, holding.pids, [oid])}:
            return True
        if not self._cancel(holding.watch, waits.pid):
            statement = f"{one_line(waits.query)[:100]!r} (process {waits.pid})"
            what = f"{statement} wants {self._tables[oid]}, and cannot be cancelled"
            if not saving:
                self._tell(f"{what} by this role, so it goes on, though {why}.")
                self._decided[key] = ""
                return False
            why = f"{why}; it could not be cancelled by this role, so it was kept waiting"
            if new:
                self._tell(f"{what} by this role, so it is kept waiting: {why}. End it, or make room.")
        waited = waits.seconds + time.monotonic() - began
        strike = Strike(query=waits.query, table=str(self._tables[oid]), rows=0, waited=waited, refused=why)
        if all((s.query, s.table, s.refused) != (strike.query, strike.table, why) for s in self.strikes):
            self.strikes.append(strike)
        return True

    def _cancel(self, watch: Connection, pid: int) -> bool:
        try:
            watch.execute("select pg_cancel_backend(%s)", [pid])
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True

    def _adopt(self, holding: Holding) -> None:
        """Hold tables, partitions above all, that were made since."""
        new = {t.oid: t for t in self._find(holding.watch) if t.oid not in self._tables and t.kind is not Kind.FOREIGN}
        self._tables |= new
        holding.outside |= new
        self._look_again_at = time.monotonic() + _ADOPTION

    def _note_regained(self, regained: Mapping[int, Standing]) -> None:
        """A table that is held again with the file that it had lost nothing meanwhile."""
        for oid, now in regained.items():
            if now.file == self._files.setdefault(oid, now.file):
                self.gaps.pop(oid, None)
            else:
                self._files[oid] = now.file


def _alone(watch: Connection) -> bool:
    """Keep every other guard away from this database for as long as the connection lasts; False where one stands."""
    return watch.execute("select pg_try_advisory_lock(%s)", [ALONE]).fetchone() == (True,)


def _key(waits: Waiting, oid: int) -> tuple[int, str, int]:
    return waits.pid, waits.since, oid
