"""What the tests of restore and drill share: sessions that are proven, restores, and what a database holds."""

import re
import subprocess
from pathlib import Path

from psycopg import sql

from backup.bring_back import restore_into
from backup.postgres.database import Database
from backup.postgres.scratch import scratch_database
from backup.report import Report
from backup.result import Result
from backup.session.drill import drill_session
from backup.session.folder import Session
from backup.session.restore import RestoreMode
from backup.session.sidecar import Drill
from tests.servers import FreshDatabase, clean_environment
from tests.sessions import clients_for, installed_clients, reached, rows, write

_ODDITIES = Path(__file__).with_name("oddities.sql")
_NOISE = re.compile(r"--.*|\\(un)?restrict .*|\s*")

_TABLES = """
select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.relispopulated
  and n.nspname <> 'information_schema' and not starts_with(n.nspname, 'pg_')
order by 1, 2
"""

_SEQUENCES = "select schemaname::text, sequencename::text from pg_sequences order by 1, 2"


def drill(database: FreshDatabase, session: Session, where: str = "server") -> Drill:
    """The proof of the session, on a scratch database beside the original unless said otherwise."""
    there = reached(database)
    with scratch_database(there, where) as scratch:
        return drill_session(session, scratch=scratch, clients=clients_for(database), jobs=2)


def proven(database: FreshDatabase, root: Path) -> Session:
    """A session of all CDC tables of the database, drilled."""
    session = write(database, root)
    drill(database, session)
    return session


def bring_back(
    database: FreshDatabase | Database,
    session: Session,
    *names: str,
    mode: RestoreMode = RestoreMode.MISSING,
    plan_only: bool = False,
    even_renamed: bool = False,
    without_delta: bool = False,
    ask: bool = False,
    lock_timeout: float = 60,
) -> Result:
    """Restore as `migration.restore --yes` does; what it came to."""
    result = Result()
    there = reached(database) if isinstance(database, FreshDatabase) else database
    restore_into(
        there,
        session,
        names,
        mode=mode,
        plan_only=plan_only,
        even_renamed=even_renamed,
        without_delta=without_delta,
        ask=ask,
        lock_timeout=lock_timeout,
        clients=lambda: installed_clients(there),
        report=Report(),
        result=result,
    )
    return result


def done(result: Result) -> dict[str, tuple[int, int, int]]:
    """Of each table of a restore, the rows that were added, kept though they differ, and removed."""
    return {
        plan.saved.name: (plan.done.added, plan.done.differ, plan.done.removed)
        for plan in result.plan or ()
        if plan.done is not None
    }


def definitions(database: FreshDatabase) -> str:
    """All definitions of the database, as its own pg_dump tells them."""
    said = subprocess.run(
        (str(database.server.binaries / "pg_dump"), "--no-password", "--schema-only", f"--dbname={database.url}"),
        env=clean_environment(),
        capture_output=True,
        check=True,
    ).stdout
    lines = said.decode(errors="surrogateescape").split("\n")
    return "\n".join(line for line in lines if not _NOISE.fullmatch(line))


def everything(database: FreshDatabase) -> list[str]:
    """All that a database holds, line by line, whatever the order of the rows on the disk."""
    lines = definitions(database).split("\n")
    for schema, table in database.rows(_TABLES):
        lines += [f"{schema}.{table}: {row}" for row in rows(database, sql.Identifier(schema, table))]
    for schema, sequence in database.rows(_SEQUENCES):
        lines += [f"{schema}.{sequence}: {stood}" for stood in stands(database, sql.Identifier(schema, sequence))]
    return lines


def stands(database: FreshDatabase, sequence: sql.Identifier) -> list[tuple[int, bool]]:
    """Where a sequence stands, and whether it was used."""
    return database.rows(sql.SQL("select last_value, is_called from {}").format(sequence))


def oddities(database: FreshDatabase, role: str, other: str) -> None:
    """Fill the database with the oddities."""
    made = database.psql("--quiet", f"--file={_ODDITIES}", f"--set=role={role}", f"--set=other={other}")
    assert (made.returncode, made.stderr) == (0, ""), made.stderr
