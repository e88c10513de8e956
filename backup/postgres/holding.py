"""Tables that are held by several connections together, hand over hand, so that one can be let go alone."""

import select
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import ceil

from backup.errors import DatabaseError
from backup.postgres.locks import (
    Holder,
    Standing,
    Waiting,
    are_named,
    count_free,
    find_next,
    find_standing,
    find_taken,
    is_lost,
    wait_until_queued,
)
from backup.postgres.tables import Connection, Table, find_shapes, find_tables_by, shape

_CONNECTIONS = 8
"""As many hold, take over and stand in queues. Of more tables that a transaction takes, those that outlive it are
held again a moment later, instead of at once."""

_QUEUES = 5
"""As many stand in queues at most."""

_READY = 3
"""As many hold nothing and stand ready, because a connection is not made while somebody waits for us."""

_MANY = 32
"""With more tables than that there are more connections, for those that a statement will probably want next."""

_APART = 8
"""As many more."""

_PARTS = 4
"""Of so many tables, what is held on when one is let go is a part only: so many connections hold as many each."""

_LEFT = 4
"""Of the connections that the server has free then, one in so many is taken at most; the application has the others."""

_NEXT = 0.01
"""Seconds for which a statement that got a table is asked what it wants next."""

Save = Callable[[Connection, Table, Sequence[Table]], None]
"""Saves a table under the name that it has now, with a connection that holds it and others that may be next."""


class Holding:
    """ACCESS SHARE on tables, by as many connections as it takes.

    `held` are the tables as they are now: while they are held, nothing of them changes but the name of their schema.
    Locks of a transaction are only released together. So before a connection lets go, another one takes what is
    to be held on; it never waits for that, because who waits for a lock while he holds one can be part of a
    deadlock. `outside` are the tables that were let go and may come back. A connection that holds nothing stands in
    the queue for each from before it is let go, so that it is ours again when the transaction that took it ends.
    `slipped` says of tables why something can have happened to them before they were held again: a queue is for a
    name, and not all can be queued for. `watch` holds nothing, and looks.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self.watch = connect()
        self._holders = [Holder(connect()) for _ in range(1 + _READY)]
        self._most = len(self._holders) + count_free(self.watch) // _LEFT
        self.outside: dict[int, Table] = {}
        self.slipped: dict[int, str] = {}
        self._astray: set[int] = set()
        self._taken_by: dict[int, str] = {}
        self._apart: Collection[int] = ()

    @property
    def pids(self) -> frozenset[int]:
        """The processes of the connections that hold."""
        return frozenset(holder.pid for holder in self._holders)

    @property
    def broken(self) -> bool:
        """Whether one of the connections is lost."""
        return self.watch.closed or any(holder.connection.closed for holder in self._holders)

    @property
    def held(self) -> dict[int, Table]:
        """The tables that are held, by OID."""
        return {oid: table for holder in self._holders for oid, table in holder.held.items()}

    def take(self, tables: Iterable[Table], timeout: float) -> bool:
        """Hold the tables; False where one of them cannot be had within so many seconds."""
        taking, first = {table.oid: table for table in tables}, self._main
        # By one alone, which waits: where it is part of a deadlock, PostgreSQL sees that.
        taken = first.add(taking, self.watch, timeout=timeout)
        self._make_ready()
        if taken:
            self._share(first)
        return taken

    def let_go(
        self,
        oids: Collection[int],
        save: Save,
        still: Callable[[], bool],
        *,
        following: Sequence[int] = (),
        named: bool = False,
    ) -> bool:
        """Let go of these tables and hold all others on; False where that is not possible at the moment.

        Args:
            oids: the tables.
            save: called for each when nothing but what it raises keeps us from letting go.
            still: called after that; whether somebody still waits for them.
            following: those that will probably be let go next; the first of them get connections of their own.
            named: whether it was looked a moment ago what the tables are called.
        """
        letting = [holder for holder in self._holders if holder.held.keys() & set(oids)]
        if not self._pass_on(letting, oids, following):
            return False
        if not named:
            standing = find_standing(self.watch, [*oids, *following])
            for holder in letting:
                holder.held |= {o: _named(t, standing[o]) for o, t in holder.held.items() if o in standing}
        gone = {oid: table for holder in letting for oid, table in holder.held.items() if oid in oids}
        queued = self._stand_in_queue(gone.values())
        try:
            for holder in letting:
                after = [holder.held[oid] for oid in following if oid in holder.held]
                for table in [holder.held[oid] for oid in oids if oid in holder.held]:
                    save(holder.connection, table, after)
            wait_until_queued(self.watch, [holder.pid for holder in queued])
            waits = still()
        except BaseException:
            for holder in queued:
                holder.let_go()
            for holder in letting:
                if not holder.connection.closed:
                    holder.recover()
            raise
        for holder in letting if waits else queued:
            holder.let_go()
        self.outside |= gone if waits else {}
        return waits

    def wanted_next(self, waiting: Waiting) -> Waiting | None:
        """What a transaction that got its table wants next, where a connection of ours holds that alone."""
        deadline = time.monotonic() + _NEXT
        alone = {holder.pid: oid for holder in self._holders if len(holder.held) == 1 for oid in holder.held}
        while alone and time.monotonic() < deadline:
            found = find_next(self.watch, waiting, alone)
            if found is None or found.blockers:
                return found if found and found.oid else None
        return None

    def renew(self, pids: Collection[int]) -> bool:
        """End the transactions of these processes of ours; the others hold what they held."""
        ending = [holder for holder in self._holders if holder.pid in pids]
        passed_on = self._pass_on(ending, ())
        for holder in ending if passed_on else ():
            holder.let_go()
        return passed_on

    def mend(self) -> dict[int, Table]:
        """Give up the connections that are lost, or all but `watch` where none is: so something else is wrong.

        What they held and nobody holds now may come back; these are those tables.
        """
        lost = [holder for holder in self._holders if is_lost(holder.connection, waiting=holder.awaited is not None)]
        if is_lost(self.watch):
            self.watch.close()
        elif not lost:
            return self.leave()
        self._holders = [holder for holder in self._holders if holder not in lost]
        for holder in lost:
            holder.connection.close()
        held = self.held
        gone = {oid: table for holder in lost for oid, table in holder.held.items() if oid not in held}
        self.outside |= gone
        self._make_ready()
        return gone

    def leave(self) -> dict[int, Table]:
        """Give up all connections but `watch`, and what they hold: that may come back."""
        gone = self.held
        for holder in self._holders:
            holder.connection.close()
        self._holders = []
        self.outside |= gone
        return gone

    def regain(self, *, all_of_them: bool = True) -> dict[int, Standing]:
        """Hold again what outlived the statement that took it: how it stands now, by OID.

        Unless it is to be `all_of_them`, only those that we stand in the queue for, which costs nothing.
        """
        back = {table.oid for holder in self._holders if (table := holder.arrived(self.watch))}
        missed = {holder.missed.oid for holder in self._holders if holder.missed}
        if not self.outside or not (back or missed or all_of_them):
            return {}
        standing = find_standing(self.watch, list(self.outside))
        astray = dict.fromkeys(self._astray - standing.keys(), "it was renamed, and gone before it could be held again")
        self.slipped |= astray
        self._astray |= missed & standing.keys()
        for holder in self._holders:
            holder.missed = None
        self.outside = {oid: _named(self.outside[oid], now) for oid, now in standing.items()}
        awaited = {holder.awaited.oid for holder in self._holders if holder.awaited}
        taken = find_taken(self.watch, self.outside.keys() - back - awaited)
        self._note_taken(taken)
        back |= self._hold({o: t for o, t in self.outside.items() if o not in back | awaited and o not in taken})
        self.outside = {oid: table for oid, table in self.outside.items() if oid not in back}
        self._taken_by = {oid: by for oid, by in self._taken_by.items() if oid in self.outside}
        self._astray -= back | astray.keys()
        self._refresh(back)
        self.gather()
        awaited = {holder.awaited.oid for holder in self._holders if holder.awaited}
        self._stand_in_queue(table for oid, table in self.outside.items() if oid not in awaited)
        return {oid: standing[oid] for oid in back if oid in standing}

    def gather(self, *, all_of_them: bool = False) -> None:
        """Bring together what several connections hold, so that some are free; also those apart, if `all_of_them`."""
        if all_of_them:
            self._apart = ()
        mains = self._mains
        for holder in self._holders:
            if holder in mains or not holder.held or holder.awaited or holder.held.keys() <= set(self._apart):
                continue
            if mains[-1].add(holder.held, self.watch):
                holder.let_go()
        self._make_ready()

    def _share(self, first: Holder) -> None:
        """Let several connections hold what one does, a part each: those together that are likely to be wanted so."""
        oids = sorted(first.held)
        size = max(1, ceil(len(oids) / self._parts))
        parts = [{oid: first.held[oid] for oid in oids[start : start + size]} for start in range(0, len(oids), size)]
        if len(parts) > 1 and self._hold_apart(parts):
            first.let_go()

    def end(self) -> None:
        """Let go of everything, and stand in no queue any more; a connection that does cannot be closed in order."""
        for holder in self._holders:
            holder.let_go()

    def pause(self, seconds: float) -> None:
        """Wait so long, or until a table that we stand in the queue for may be ours."""
        select.select([holder.connection for holder in self._holders if holder.awaited], [], [], seconds)

    def look_again(self) -> None:
        """Learn the names that the tables have by now: that of a schema changes without a lock on its tables."""
        standing = find_standing(self.watch, list(self.held))
        for holder in self._holders:
            holder.held = {oid: _named(table, standing[oid]) for oid, table in holder.held.items() if oid in standing}

    @property
    def _parts(self) -> int:
        """How many connections share what is to be held."""
        return _PARTS if len(self._holders) >= _CONNECTIONS + _PARTS else 1

    @property
    def _mains(self) -> list[Holder]:
        """Those that hold the most."""
        able = [holder for holder in self._holders if not holder.awaited] or self._spares(1)
        return sorted(able, key=lambda holder: len(holder.held), reverse=True)[: self._parts]

    @property
    def _main(self) -> Holder:
        """Who is to hold what comes: of those that hold the most, who holds the least."""
        return self._mains[-1]

    def _spares(self, number: int) -> list[Holder]:
        """So many connections that hold nothing."""
        spares = [holder for holder in self._holders if holder.free][:number]
        while len(spares) < number:
            spares.append(Holder(self._connect()))
            self._holders.append(spares[-1])
        return spares

    def _stand_in_queue(self, tables: Iterable[Table]) -> list[Holder]:
        """Stand in the queue for as many of the tables as there are connections for; one is always kept free."""
        queued: list[Holder] = []
        for table in tables:
            free = [holder for holder in self._holders if holder.free]
            if len(free) < 2 or sum(holder.awaited is not None for holder in self._holders) >= _QUEUES:
                break
            free[0].queue(table)
            queued.append(free[0])
        return queued

    def _make_ready(self) -> None:
        wanted = min(_READY - sum(holder.free for holder in self._holders), _CONNECTIONS - len(self._holders))
        if len(self.held) > _MANY:
            wanted = _CONNECTIONS + _APART - len(self._holders)
        with suppress(DatabaseError):  # the server has no connection to spare
            for _ in range(min(wanted, self._most - len(self._holders))):
                self._holders.append(Holder(self._connect()))

    def _pass_on(self, letting: Collection[Holder], without: Collection[int], apart: Sequence[int] = ()) -> bool:
        """Let spare connections hold all that these hold, without some; False where it cannot be had.

        As many of those `apart` as there are connections for get one each: who waits for it is known then by that.
        """
        with_others = {oid for holder in self._holders if holder not in letting for oid in holder.held}
        on = {oid for holder in letting for oid in holder.held} - set(without) - with_others
        free = sum(holder.free for holder in self._holders)
        # One for what remains of each, one to be kept free, and those for the queues.
        queues = max(0, _QUEUES - sum(holder.awaited is not None for holder in self._holders))
        alone = [oid for oid in apart if oid in on][: max(0, free - len(letting) - 1 - queues)]
        held = self.held
        rest = [{o: t for o, t in holder.held.items() if o in on and o not in alone} for holder in letting]
        if len(rest) >= free:
            rest = [{oid: table for part in rest for oid, table in part.items()}]
        parts = [part for part in (*({oid: held[oid]} for oid in alone), *rest) if part]
        locked = self._hold_apart(parts)
        if alone:
            self._apart = alone
        return locked

    def _hold_apart(self, parts: Sequence[Mapping[int, Table]]) -> bool:
        """Let a spare connection hold each part; False, with none of them held so, where one cannot be had."""
        spares = self._spares(len(parts))
        locked = all(spare.lock(part) for spare, part in zip(spares, parts, strict=True))
        locked = locked and are_named(self.watch, {oid: table for part in parts for oid, table in part.items()})
        for spare, part in zip(spares, parts, strict=True):
            spare.keep(part, locked=locked)
        return locked

    def _hold(self, tables: Mapping[int, Table]) -> set[int]:
        """Hold as many of the tables as can be had."""
        if not tables or self._main.add(tables, self.watch):
            return set(tables)
        items = list(tables.items())
        half = len(items) // 2
        return self._hold(dict(items[:half])) | self._hold(dict(items[half:])) if half else set()

    def _refresh(self, back: Collection[int]) -> None:
        """Learn what became of the tables' columns, while nobody waits for us."""
        held = self.held
        shapes = find_shapes(self.watch, back)
        changed = [oid for oid in back if oid in held and shapes.get(oid) != shape(held[oid])]
        for table in find_tables_by(self.watch, changed, []) if changed else ():
            for holder in self._holders:
                if table.oid in holder.held:
                    holder.held[table.oid] = table

    def _note_taken(self, taken: Mapping[int, str]) -> None:
        """Who has the tables that we stand in no queue for: not another one than a moment ago, unless one slipped."""
        for oid, by in taken.items():
            # A prepared transaction is another one by this name, and goes on with what it had.
            if self._taken_by.setdefault(oid, by) != by and not by.startswith("-1/"):
                self.slipped[oid] = "another transaction took it before it could be held again"
        self._taken_by |= taken


def _named(table: Table, standing: Standing) -> Table:
    if (table.schema, table.name) == (standing.schema, standing.name):
        return table
    return replace(table, schema=standing.schema, name=standing.name)
