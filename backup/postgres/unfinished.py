"""What is not over on the server although the program that began it is gone: statements, prepared transactions."""

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
# table that we ask about: through a pooler the migration may have got an old one. What a function of this database
# is going to do, no word of the statement tells, unless the function promises to change nothing.
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
          and (locks.pid is not null
               or a.query ~* '\\m(alter|call|create|delete|do|drop|execute|merge|rename|truncate|update)\\M'
               or exists (select from pg_proc p
                          where p.oid >= 16384 and p.provolatile = 'v'
                            and lower(p.proname) = any(regexp_split_to_array(lower(a.query), '\\W+')))))
order by a.pid
"""

# It ends with no connection. Who has read a table alone can change nothing of it any more.
_PREPARED = """
select distinct p.gid, p.prepared
from pg_prepared_xacts p join pg_locks x on x.transactionid = p.transaction and x.pid is null
join pg_locks l on l.virtualtransaction = x.virtualtransaction and l.pid is null
where p.database = current_database() and p.prepared >= %(since)s
  and l.locktype = 'relation' and l.relation = any(%(oids)s::oid[])
  and l.mode not in ('AccessShareLock', 'RowShareLock')
order by 1
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A statement that a backend of the server is running: the process, since when, and what, as far as shown.

    Without a process, `query` is the name of a prepared transaction.
    """

    pid: int | None
    since: datetime
    query: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"the prepared transaction {self.query!r}, which COMMIT PREPARED or ROLLBACK PREPARED ends"
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
    """What others have begun that may still change the tables, since a time of the server's own clock.

    Statements of connections made since, or that locked one of the tables; transactions that were prepared since.
    """
    rows = connection.execute(_UNFINISHED, {"oids": list(oids), "since": since, "name": APPLICATION_NAME})
    prepared = connection.execute(_PREPARED, {"oids": list(oids), "since": since})
    return (
        *(Running(pid=pid, since=began, query=query) for pid, began, query in rows),
        *(Running(pid=None, since=began, query=gid) for gid, began in prepared),
    )


def wait_for_unfinished(
    connection: Connection, oids: Sequence[int], since: datetime, *, limit: float, tell: Callable[[str], None]
) -> tuple[Running, ...]:
    """Wait until what is unfinished at this moment is over; what is not after `limit` seconds.

    Statements that come later are not waited for: what sends new ones is no program that is gone.
    """
    first = find_unfinished(connection, oids, since)
    for running in first:
        what = "for a statement that is still running on the server" if running.pid else "on the server for"
        tell(f"Waiting {what}: {running}")
    ends, still = time.monotonic() + limit, first
    while still and time.monotonic() < ends:
        time.sleep(_PAUSE)
        still = tuple(running for running in find_unfinished(connection, oids, since) if running in still)
    return still
