"""Holds the CDC tables while the migration runs, and saves what is new in one before a statement takes it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import psycopg

from backup.errors import BackupError, CDCBackupError
from backup.postgres.database import Database
from backup.postgres.holding import Holding
from backup.postgres.locks import Standing, Waiting, find_standing, find_waiting, still_waits
from backup.postgres.tables import Connection, Kind, Table, digest_names
from backup.session.statements import one_line

_PAUSE = 0.005
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

_MANY = 3
"""After so many tables a statement is taken for one that wants many: what it will want next is saved ahead of time."""

_FOLLOWED = 0.05
"""Seconds for which one transaction is followed from table to table, while nobody looks after others."""

_QUICK = 0.01
"""Seconds of asking and saving after which it is looked whether the statement waits still."""

_CALM = 0.2
"""Seconds without a table being let go after which what was prepared for the next is given up."""

_SOON = 0.001
"""Seconds between two looks right after a table was let go: its transaction may want another."""

_ADOPTION = 1.0
"""Seconds between two looks for tables that were made meanwhile."""

_BUSY = 5.0
"""Seconds for which such a look is put off while tables are let go: it takes long where there are many."""

_RETRY = 0.5
"""Seconds between two attempts to reach a server that is gone."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How many rows were saved, or why they could not be; `there` is how many the table had in all, if it was asked."""

    rows: int
    missed: str = ""
    there: int = 0


Save = Callable[[Connection, Table, Table], Saved]
"""Saves what is new in a table.

Gets a connection that holds it, the table as it was backed up, and the same with the name that it has now.
"""

SaveAhead = Callable[[Connection, Sequence[tuple[Table, Table]]], None]
"""Saves what is new in tables that are likely to be taken next, all together; what it cannot save is left for then."""

LetGo = Callable[[Iterable[int]], None]
"""Hears of tables that are not held any more, by OID."""

Decide = Callable[[Waiting, Table], str]
"""Why a statement that waits for the table must not have it; empty where it may."""

Find = Callable[[Connection, Collection[int]], Sequence[Table]]
"""Finds the CDC tables that there are, without those whose OIDs are known."""

Tell = Callable[[str], None]
"""Says what cannot wait until the command has ended."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A statement that wanted a CDC table for itself alone, and what became of it.

    `table` is its name, `rows` is what was saved of it. For `waited` seconds, those for tables that it had got before
    not counted, the statement was held up. `refused` says why it was cancelled; it is empty where it went on, or
    `gave_up` by itself while the guard held the table. `transaction` is the same for all that one of them wanted.
    """

    query: str
    table: str
    rows: int
    waited: float
    refused: str
    gave_up: bool
    transaction: str


def held_up(strikes: Iterable[Strike]) -> float:
    """Seconds for which a writer was held up by the guard at most.

    A transaction keeps the tables that it has got, and who wants to write to its first waits for its last as well.
    """
    waited: dict[str, float] = {}
    for strike in strikes:
        waited[strike.transaction] = waited.get(strike.transaction, 0.0) + strike.waited
    return max(waited.values(), default=0.0)


class Guard:
    """Tables that are held while something runs, and what happened to them meanwhile.

    `gaps` are tables that nobody held for a while, by OID, with the reason: what was written to them then, and
    destroyed before they were held again, is lost. `taken` tells how many rows a table had when a statement took it
    last, by OID. `over` is set when what was run has ended.
    """

    def __init__(
        self,
        database: Database,
        tables: Sequence[Table],
        *,
        find: Find,
        save: Save,
        save_ahead: SaveAhead = lambda _connection, _tables: None,
        let_go: LetGo = lambda _oids: None,
        decide: Decide,
        tell: Tell,
    ) -> None:
        self.strikes: list[Strike] = []
        self.gaps: dict[int, str] = {}
        self.taken: dict[int, int] = {}
        self._database = database
        self._tables = {table.oid: table for table in tables if table.kind is not Kind.FOREIGN}
        self._find = find
        self._save = save
        self._save_ahead = save_ahead
        self._let_go = let_go
        self._tell = tell
        self._decide = decide
        self._backed_up = frozenset(self._tables)
        self._files: dict[int, int | None] = {}
        self._decided: dict[tuple[int, str, int], str] = {}
        self._unsaved: set[tuple[int, str, int]] = set()
        self._ready: dict[tuple[int, str, int], Waiting] = {}
        self._taken: Counter[str] = Counter()
        self._last = ""
        self._let_go_at = 0.0
        self._stuck_since: float | None = None
        self._look_again_at = 0.0
        self._digest = ""
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
        if not holding.take(self._tables.values(), lock_timeout) or not self._are_still(self._find(watch, ())):
            raise BackupError(
                "The CDC tables are not what they were a moment ago: one was created, dropped or altered since, "
                f"or is locked for longer than lock_timeout ({lock_timeout:g} s).",
                untouched="The migration was not started.",
                remedy="Run this again, when nobody else changes them.",
            )
        self._files = {oid: now.file for oid, now in find_standing(watch, self._tables).items()}
        self._digest = digest_names(watch)

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
            self._let_go(gone)
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
            self._note_given_up(waiting, holding.held)
            if ending := {pid for waits in waiting if waits.oid is None for pid in waits.blockers}:
                holding.renew(ending)
            # Before somebody else gets a table, what he took already of those that we could not queue for is seen.
            strangers = any(waits.transaction != self._last for waits in waiting)
            self._regain(holding, all_of_them=strangers or began > self._let_go_at + _FOLLOWED)
            looked = time.monotonic() - began
            for waits in self._see_to(holding, [waits for waits in waiting if waits.oid in holding.held], began):
                self._follow(holding, waits)
            calm = began > self._let_go_at + _CALM
            if calm:
                holding.gather(all_of_them=True)
            if began > self._look_again_at + (0 if calm else _BUSY):
                self._adopt(holding)
            now = time.monotonic()
            if over and not waiting:
                return
            if over and now > (deadline := deadline or now + _AFTERWARDS):
                for waits in waiting:
                    if waits.oid is not None:
                        self.gaps[waits.oid] = f"{one_line(waits.query)[:100]} still waited for it when we left"
                return
            following = now < self._let_go_at + _FOLLOWED
            holding.pause(_SOON if following else max(_PAUSE, _SHARE * looked))

    def _follow(self, holding: Holding, waits: Waiting) -> None:
        """Let a transaction that takes many tables have one after the other, without looking after all others."""
        until = time.monotonic() + _FOLLOWED
        while time.monotonic() < until:
            wanted = holding.wanted_next(waits)
            if wanted is None or not self._see_to(holding, [wanted], self._let_go_at, prepared=True):
                return
            waits = wanted

    def _see_to(
        self, holding: Holding, waiting: Sequence[Waiting], seen: float, *, prepared: bool = False
    ) -> list[Waiting]:
        """Let those statements go on that wait for nobody but us; these are they.

        Unless that is `prepared` already, what one of many tables will want next is.
        """
        ready, began = dict[int, Waiting](), time.monotonic()
        for waits in waiting:
            assert waits.oid is not None  # noqa: S101 - these wait for a table
            if waits.blockers <= holding.pids and not self._refused(holding, waits, waits.oid):
                ready[waits.oid] = waits
        if not ready:
            self._stuck_since = None
            return []
        self._ready |= {_key(waits, oid): waits for oid, waits in ready.items()}
        self._stuck_since = self._stuck_since or seen
        held, saved = holding.held, dict[int, Saved]()
        letting = self._letting(ready, waiting, held, seen)
        following = () if prepared else self._following(ready, held)

        def save(connection: Connection, now: Table, following: Sequence[Table]) -> None:
            if following:
                self._save_ahead(connection, [(self._tables[table.oid], table) for table in (now, *following)])
            saved[now.oid] = self._save(connection, self._tables[now.oid], now)

        def still() -> bool:
            quick = time.monotonic() < began + _QUICK
            return quick or all(still_waits(holding.watch, waits) for waits in ready.values())

        try:
            if not holding.let_go(letting, save, still, following=following, named=prepared):
                holding.look_again()
                return []
        except (BackupError, OSError, psycopg.Error) as error:
            if holding.broken:
                raise
            # Where the names were not looked up again, the next look tells what is wrong.
            for oid, waits in () if prepared else ready.items():
                self._refused(holding, waits, oid, f"what is new in it could not be saved: {one_line(str(error))}")
            return []
        self._let_go(letting)
        self._stuck_since, self._let_go_at = None, time.monotonic()
        self.gaps |= {oid: done.missed for oid, done in saved.items() if done.missed}
        self.taken |= {oid: done.there for oid, done in saved.items()}
        for oid, waits in ready.items():
            self._taken[waits.transaction] += 1
            self._last = waits.transaction
            self._strike(waits, oid, waited=waits.seconds + self._let_go_at - seen, rows=saved[oid].rows)
        return list(ready.values())

    def _strike(
        self, waits: Waiting, oid: int, *, waited: float, rows: int = 0, refused: str = "", gave_up: bool = False
    ) -> None:
        self._ready.pop(_key(waits, oid), None)
        strike = Strike(
            query=waits.query,
            table=str(self._tables[oid]),
            rows=rows,
            waited=waited,
            refused=refused,
            gave_up=gave_up,
            transaction=waits.transaction,
        )
        known = ((s.query, s.table, s.refused) for s in self.strikes)
        if not refused or (strike.query, strike.table, refused) not in known:
            self.strikes.append(strike)

    def _note_given_up(self, waiting: Sequence[Waiting], held: Container[int]) -> None:
        """Who waited for nobody but us, and waits no more without having been let go, has given up."""
        still = {_key(waits, waits.oid) for waits in waiting if waits.oid is not None}
        for key, waits in list(self._ready.items()):
            if key[2] not in held:
                del self._ready[key]
            elif key not in still:
                self._strike(waits, key[2], waited=waits.seconds, gave_up=True)

    def _following(self, ready: Mapping[int, Waiting], held: Mapping[int, Table]) -> Sequence[int]:
        """What a transaction that has taken some tables is likely to want next: as many more, in the order of OIDs.

        So does DROP SCHEMA. What is saved of others than come then is no more than what it has had.
        """
        oid, waits = max(ready.items(), key=lambda item: self._taken[item[1].transaction])
        number, schema = self._taken[waits.transaction], held[oid].schema
        if number < _MANY:
            return []
        return sorted(held.keys() - ready.keys(), key=lambda o: (held[o].schema != schema, o < oid, o))[:number]

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
            self._decided[key] = unsaved or ("" if adopted else self._decide(waits, self._tables[oid]))
            self._unsaved |= {key} if unsaved else set()
        why, saving = self._decided[key], key in self._unsaved
        if not why:
            return False
        # While a person thinks the statement may give up, and its process run another.
        if new and key not in {_key(w, oid) for w in find_waiting(holding.watch, holding.pids, [oid])}:
            self._strike(waits, oid, waited=waits.seconds, gave_up=True)
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
        self._strike(waits, oid, waited=waits.seconds + time.monotonic() - began, refused=why)
        return True

    def _cancel(self, watch: Connection, pid: int) -> bool:
        try:
            watch.execute("select pg_cancel_backend(%s)", [pid])
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True

    def _regain(self, holding: Holding, *, all_of_them: bool) -> None:
        """Hold again what came back; all of it not always, for that takes a while when a statement takes many."""
        regained = holding.regain(all_of_them=all_of_them)
        self._note_regained(regained)
        self.gaps |= holding.slipped
        # Who makes a partition has to have the partitioned table for himself.
        if any(self._tables[oid].kind is Kind.PARTITIONED for oid in regained):
            self._adopt(holding)

    def _adopt(self, holding: Holding) -> None:
        """Hold tables, partitions above all, that were made since."""
        self._look_again_at = time.monotonic() + _ADOPTION
        if (digest := digest_names(holding.watch)) == self._digest:
            return
        found = self._find(holding.watch, self._tables)
        new = {table.oid: table for table in found if table.kind is not Kind.FOREIGN}
        self._tables |= new
        holding.outside |= new
        self._digest = digest

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
