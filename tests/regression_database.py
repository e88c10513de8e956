"""PostgreSQL's own regression database, lost and brought back: every oddity that its developers thought of.

    python -m tests.regression_database FOLDER [DIFFERENCES]

FOLDER is `src/test/regress` of PostgreSQL's source, of the major version that is installed here, readable
for the account that servers of ours run as. The database is built on a private server, with no library of
C functions, so that a few objects are missing. All its tables are then renamed to `_cdc_…`, backed up,
drilled, dropped, restored, compared. DIFFERENCES is where to write what came back otherwise. It takes some
minutes and is no part of the tests, because it needs a download.

Left out: base types that a script makes from internal functions, with the tables that use them, and
inheritance children to which a column of the parent came late, which pg_dump gives another order of columns.
"""

import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from backup.postgres.embedded import DISPOSABLE, start_server
from tests.restoring import drill, everything
from tests.servers import FreshDatabase, clean_environment, find_binaries, fresh_database
from tests.sessions import PREFIX, restore, write

_RENAME = """
select n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relpersistence <> 't' and not starts_with(c.relname, '_cdc_')
  and n.nspname <> 'information_schema' and not starts_with(n.nspname, 'pg_')
order by c.oid
"""

_BASE_TYPES = """
select oid::regtype::text from pg_type
where typtype = 'b' and typcategory <> 'A' and typnamespace = 'public'::regnamespace
  and not exists (select from pg_depend where objid = pg_type.oid and deptype = 'e')
"""

_REORDERED = ("public.a_star", "public.test_type_diff", "public.test_type_diff2", "public.gtestxx_4")

_DROP = """
select n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and starts_with(c.relname, '_cdc_')
  and not exists (select from pg_inherits where inhrelid = c.oid)
order by c.oid desc
"""


def say(line: str) -> None:
    """A line for who waits."""
    sys.stderr.write(f"{line}\n")


def build(database: FreshDatabase, folder: Path) -> None:
    """Run all the scripts of the schedule, one after the other, whatever they complain about."""
    schedule = (folder / "parallel_schedule").read_text()
    names = [name for line in re.findall(r"^test: (.*)$", schedule, re.MULTILINE) for name in line.split()]
    environment = {
        **clean_environment(),
        "PG_ABS_SRCDIR": str(folder),
        "PG_LIBDIR": str(folder),
        "PG_DLSUFFIX": ".so",
        "PGTZ": "PST8PDT",
        "PGDATESTYLE": "Postgres, MDY",
        "PGOPTIONS": "-c intervalstyle=postgres_verbose",
    }
    for number, name in enumerate(names, 1):
        sys.stderr.write(f"\r{number}/{len(names)} {name:40}")
        subprocess.run(
            (
                str(database.server.binaries / "psql"),
                "--no-psqlrc",
                "--quiet",
                "--echo-all",
                f"--dbname={database.url}",
                "--file",
                str(folder / "sql" / f"{name}.sql"),
            ),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=300,
        )
    say("")


def rename(database: FreshDatabase) -> int:
    """Give every table the prefix; how many there are."""
    dropped = [f"drop type {name} cascade" for (name,) in database.rows(_BASE_TYPES)]
    for statement in (*dropped, *(f"drop table if exists {name} cascade" for name in _REORDERED)):
        database.execute(sql.SQL(statement))
    tables = database.rows(_RENAME)
    for schema, name in tables:
        database.execute(
            sql.SQL("alter table {} rename to {}").format(
                sql.Identifier(schema, name), sql.Identifier(f"{PREFIX}{name}"[:63])
            )
        )
    return len(tables)


def drop(database: FreshDatabase) -> None:
    """Drop them all, with all that hangs on them."""
    tables = sql.SQL(", ").join(sql.Identifier(schema, name) for schema, name in database.rows(_DROP))
    database.execute(sql.SQL("drop table {} cascade").format(tables))


def differences(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines that are not the same, and some before and after them."""
    return list(difflib.unified_diff(before, after, "before", "after", lineterm="", n=3))


def main(folder: Path, target: Path | None) -> int:
    """Build, lose, bring back, compare; 0 if all is as it was."""
    binaries = find_binaries("machine")
    if binaries is None:
        say("No server of this machine's own was found.")
        return 2
    settings = {**DISPOSABLE, "max_locks_per_transaction": "512", "max_prepared_transactions": "2"}
    with (
        tempfile.TemporaryDirectory(prefix="cdc-regression-") as root,
        start_server(binaries, settings=settings) as server,
        fresh_database(server) as database,
    ):
        build(database, folder)
        say(f"{rename(database)} tables renamed")
        # What a materialized view holds is refreshed by a restore.
        for schema, name in database.rows("select schemaname::text, matviewname::text from pg_matviews"):
            database.psql(f"--command=refresh materialized view {sql.Identifier(schema, name).as_string()}")
        before = everything(database)
        session = write(database, Path(root))
        say(f"{len(session.manifest.tables)} tables backed up, {session.rows} rows")
        proof = drill(database, session)
        say("\n".join(["drilled", *proof.unproven]))
        drop(database)
        restored = restore(database, session.path / "restore.sql")
        say(restored.stderr)
        different = differences(before, everything(database))
    if target:
        target.write_text("\n".join(different) + "\n", errors="surrogateescape")
    say(f"{len(different)} lines of difference")
    return 1 if different or restored.returncode else 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
