"""Tables that are held by several connections together, hand over hand, so that one can be let go alone."""

import select
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace

from backup.errors import DatabaseError
from backup.postgres.locks import Holder, Standing, find_standing, is_lost, wait_until_queued
from backup.postgres.tables import Connection, Table

_CONNECTIONS = 8
"""As many hold, take over and stand in queues. Of more tables that a transaction takes, those that outlive it are
held again a moment later, instead of at once."""

_READY = 3
"""As many hold nothing and stand ready, because a connection is not made while somebody waits for us."""


class Holding:
    """ACCESS SHARE on tables, by as many connections as it takes.

    Locks of a transaction are only released together. So before a connection lets go, another one takes what is
    to be held on; it never waits for that, because who waits for a lock while he holds one can be part of a
    deadlock. `outside` are the tables that were let go and may come back. A connection that holds nothing stands in
    the queue for each from before it is let go, so that it is ours again when the transaction that took it ends.
    A queue is for a name: `slipped` are those that outlived their statement under another one, and then were gone
    before we could hold them again. `watch` holds nothing, and looks.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self.watch = connect()
        self._holders = [Holder(connect()) for _ in range(1 + _READY)]
        self.outside: dict[int, Table] = {}
        self.slipped: set[int] = set()
        self._astray: set[int] = set()

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
        return self._main.add({table.oid: table for table in tables}, timeout=timeout)

    def let_go(self, oids: Collection[int], save: Callable[[Connection, Table], None]) -> bool:
        """Let go of these tables and hold all others on; False where that is not possible at the moment.

        `save` is called for each table, under the name that it has now and with a connection that holds it, when
        nothing but what it raises keeps us from letting go.
        """
        letting = [holder for holder in self._holders if holder.held.keys() & set(oids)]
        with_others = {oid for holder in self._holders if holder not in letting for oid in holder.held}
        if not self._pass_on(letting, {*oids, *with_others}):
            return False
        standing = find_standing(self.watch, oids)
        tables = {
            oid: (holder, _named(table, standing[oid]))
            for holder in letting
            for oid, table in holder.held.items()
            if oid in oids
        }
        queued = self._stand_in_queue(table for _, table in tables.values())
        try:
            for holder, table in tables.values():
                # A failure inside of a savepoint leaves the locks that were taken before it.
                with holder.connection.transaction():
                    save(holder.connection, table)
        except BaseException:
            for holder in queued:
                holder.let_go()
            raise
        wait_until_queued(self.watch, [holder.pid for holder in queued])
        for holder in letting:
            holder.let_go()
        self.outside |= {oid: table for oid, (_, table) in tables.items()}
        return True

    def renew(self, pids: Collection[int]) -> bool:
        """End the transactions of these processes of ours; the others hold what they held."""
        ending = [holder for holder in self._holders if holder.pid in pids]
        with_others = {oid for holder in self._holders if holder not in ending for oid in holder.held}
        passed_on = self._pass_on(ending, with_others)
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

    def regain(self) -> dict[int, Standing]:
        """Hold again what outlived the statement that took it: how it stands now, by OID."""
        back = {table.oid for holder in self._holders if (table := holder.arrived())}
        if not self.outside:
            return {}
        standing = find_standing(self.watch, list(self.outside))
        self.slipped |= self._astray - standing.keys()
        self._astray |= {holder.missed.oid for holder in self._holders if holder.missed} & standing.keys()
        for holder in self._holders:
            holder.missed = None
        self.outside = {oid: _named(self.outside[oid], now) for oid, now in standing.items()}
        awaited = {holder.awaited.oid for holder in self._holders if holder.awaited}
        free = {o: t for o, t in self.outside.items() if o not in back | awaited and not standing[o].taken}
        if free and self._main.add(free):
            back |= free.keys()
        else:
            back |= {oid for oid, table in free.items() if self._main.add({oid: table})}
        self.outside = {oid: table for oid, table in self.outside.items() if oid not in back}
        self._astray -= back | self.slipped
        self._merge()
        awaited = {holder.awaited.oid for holder in self._holders if holder.awaited}
        self._stand_in_queue(table for oid, table in self.outside.items() if oid not in awaited)
        self._make_ready()
        return {oid: standing[oid] for oid in back if oid in standing}

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
    def _main(self) -> Holder:
        """Who holds the most."""
        able = [holder for holder in self._holders if not holder.awaited]
        return max(able, key=lambda holder: len(holder.held)) if able else self._spare()

    def _spare(self) -> Holder:
        spare = next((holder for holder in self._holders if holder.free), None)
        if spare is None:
            self._holders.append(spare := Holder(self._connect()))
        return spare

    def _stand_in_queue(self, tables: Iterable[Table]) -> list[Holder]:
        """Stand in the queue for as many of the tables as there are connections for; one is always kept free."""
        queued = []
        for table in tables:
            free = [holder for holder in self._holders if holder.free]
            if len(free) < 2:
                break
            free[0].queue(table)
            queued.append(free[0])
        return queued

    def _make_ready(self) -> None:
        ready = sum(holder.free for holder in self._holders)
        with suppress(DatabaseError):  # the server has no connection to spare
            for _ in range(min(_READY - ready, _CONNECTIONS - len(self._holders))):
                self._holders.append(Holder(self._connect()))

    def _pass_on(self, letting: Collection[Holder], without: Collection[int]) -> bool:
        """Let a spare connection hold all that these hold, without some; False where it cannot be had."""
        rest = {o: t for holder in letting for o, t in holder.held.items() if o not in without}
        spare = self._spare()
        if spare.add(rest):
            return True
        spare.let_go()
        return False

    def _merge(self) -> None:
        """Bring together what several connections hold, so that some are free."""
        main = self._main
        for holder in self._holders:
            if holder is not main and holder.held and not holder.awaited and main.add(holder.held):
                holder.let_go()


def _named(table: Table, standing: Standing) -> Table:
    return replace(table, schema=standing.schema, name=standing.name)
