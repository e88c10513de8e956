"""Statements that are still running on the server although the program that sent them is gone."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from backup.postgres.database import APPLICATION_NAME
from backup.postgres.tables import Connection

_SHOWN = 100
_PAUSE = 0.1

# A connection of the migration's own is younger than the migration. One that is older counts where it has locked a
# table that we ask about: through a pooler the migration may have got an old one.
_UNFINISHED = """
with locks as (
    select pid, bool_or(relation = any(%(oids)s::oid[])) as ours
    from pg_locks
    where locktype = 'relation' and mode = 'AccessExclusiveLock'
      and database = (select oid from pg_database where datname = current_database())
    group by pid
)
select a.pid, coalesce(a.query_start, a.backend_start, 'epoch'), coalesce(a.query, '')
from pg_stat_activity a left join locks using (pid)
where a.datname = current_database() and a.pid <> pg_backend_pid() and a.application_name <> %(name)s
  and coalesce(a.backend_type, 'client backend') = 'client backend'
  and a.state is distinct from 'idle'
  and (coalesce(locks.ours, false)
       or a.backend_start >= %(since)s
          and (locks.pid is not null or a.query ~* '\\m(alter|create|delete|do|drop|merge|rename|truncate|update)\\M'))
order by a.pid
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A statement that a backend of the server is running: the process, since when, and what, as far as shown."""

    pid: int
    since: datetime
    query: str

    def __str__(self) -> str:
        # a literal may be a password
        shown = " ".join(re.sub(r"'[^']*'?", "'…'", self.query).split())
        return f"{shown[:_SHOWN] or 'a statement that this role may not see'}, by process {self.pid}"


def server_clock(connection: Connection) -> datetime:
    """What time it is on the server."""
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    moment: datetime = row[0]
    return moment


def find_unfinished(connection: Connection, oids: Sequence[int], since: datetime) -> tuple[Running, ...]:
    """Statements of others that may still change the tables: of connections made `since`, or that locked one of them.

    `since` is a time of the server's own clock.
    """
    rows = connection.execute(_UNFINISHED, {"oids": list(oids), "since": since, "name": APPLICATION_NAME})
    return tuple(Running(pid=pid, since=began, query=query) for pid, began, query in rows)


def wait_for_unfinished(
    connection: Connection, oids: Sequence[int], since: datetime, *, limit: float, tell: Callable[[str], None]
) -> tuple[Running, ...]:
    """Wait until the unfinished statements of this moment are over; those that are not after `limit` seconds.

    Statements that come later are not waited for: what sends new ones is no program that is gone.
    """
    first = find_unfinished(connection, oids, since)
    for running in first:
        tell(f"Waiting for a statement that is still running on the server: {running}")
    ends, still = time.monotonic() + limit, first
    while still and time.monotonic() < ends:
        time.sleep(_PAUSE)
        known = {(running.pid, running.since) for running in still}
        still = tuple(r for r in find_unfinished(connection, oids, since) if (r.pid, r.since) in known)
    return still
