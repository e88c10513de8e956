"""Writers that never stop, and migrations that destroy what they write to: not one committed row may be missing.

    python -m tests.stress_guard RUNS [KIND …]

KIND is one of those below, or `push`, which needs Node. Four writers commit to three CDC tables as fast as they can,
one of them through subtransactions, while a safe recipe backs up and runs a migration that destroys them. Then
everything is restored and compared, row by row: nothing may be missing, nothing doubled. Says how long a writer was
held up at most. A few runs of it are a test.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg

from backup.postgres.embedded import DISPOSABLE, start_server
from tests.chain import Project, new_project, psql
from tests.drizzle_projects import install
from tests.servers import find_binaries

TABLES = """
create schema audit;
create table users (id int primary key);
create table audit._cdc_keyed (id bigint primary key, note text);
create table audit._cdc_keyless (id bigint, note text);
create table audit._cdc_child (
    id bigint generated always as identity, number bigint unique, by_user int references users);
"""

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "d" / "drizzle"

NAMES = ("_cdc_keyed", "_cdc_keyless", "_cdc_child")
COLUMNS = {"_cdc_keyed": "id", "_cdc_keyless": "id", "_cdc_child": "number"}

KINDS = {
    "drop": ("drop table audit._cdc_keyed, audit._cdc_keyless, audit._cdc_child",),
    "one by one": tuple(f"drop table audit.{name}" for name in NAMES),
    "truncate": ("truncate audit._cdc_keyed, audit._cdc_keyless", "truncate audit._cdc_child"),
    "truncate and drop": tuple(f"{verb} audit.{name}" for name in NAMES for verb in ("truncate", "drop table")),
    "schema": ("drop schema audit cascade",),
    "rolled back": (
        "begin; drop schema audit cascade; rollback",
        "drop table audit._cdc_keyed, audit._cdc_keyless, audit._cdc_child",
    ),
    "changed": (
        "update audit._cdc_keyed set note = 'changed' where id < 0",
        "drop table audit._cdc_keyed, audit._cdc_keyless, audit._cdc_child",
    ),
}

SCHEMA = """
import { integer, pgTable } from "drizzle-orm/pg-core";
export const users = pgTable("users", { id: integer("id").primaryKey() });
"""
CONFIG = """
export default { dialect: "postgresql", schema: "./schema.ts", dbCredentials: { url: process.env.DATABASE_URL } };
"""
"""A Drizzle project that knows nothing of CDC tables; drizzle-kit pushes one schema alone, `public`."""


@dataclass
class Writing:
    """What the writers committed, by table, and the longest time that one statement took, in seconds."""

    schema: str
    committed: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in NAMES})
    longest: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def write(self, project: Project, which: int, begun: threading.Barrier) -> None:
        """Commit a row to one table after the other until it is over; the tables may be gone for a while."""
        number = 0
        with project.database.connect() as connection:
            while not self.over.is_set():
                number += 1
                name, row = NAMES[number % 3], which * 1_000_000_000 + number
                insert = f"insert into {self.schema}.{name} ({COLUMNS[name]}) values ({row})"
                if which == 1:
                    insert = f"do $$ begin begin {insert}; exception when division_by_zero then null; end; end $$"
                began = time.monotonic()
                try:
                    connection.execute(insert)
                except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                    self.over.wait(0.001)
                else:
                    self.committed[name][row] += 1
                    self.longest = max(self.longest, time.monotonic() - began)
                if number == 100:
                    begun.wait()


@contextmanager
def writing(project: Project, schema: str) -> Iterator[Writing]:
    """Four writers, for as long as the block lasts; it begins when each has written something."""
    writing, begun = Writing(schema), threading.Barrier(5)
    writers = [threading.Thread(target=partial(writing.write, project, which, begun)) for which in range(1, 5)]
    for writer in writers:
        writer.start()
    try:
        begun.wait()
        yield writing
    finally:
        writing.over.set()
        for writer in writers:
            writer.join()


def destroy_and_restore(project: Project, kind: str) -> tuple[Writing, str]:
    """One run: what was committed, and what is wrong after the restore, or nothing."""
    schema = "public" if kind == "push" else "audit"
    project.database.execute(TABLES.replace("audit", schema).replace("create schema", "create schema if not exists"))
    project.configure(schemas=[schema], rehearse="off")
    for name in NAMES:
        project.database.execute(
            f"insert into {schema}.{name} ({COLUMNS[name]}) select -g from generate_series(1, 1000) g"
        )
    with writing(project, schema) as written:
        ended = project.cdc("run-safe", "--yes", "--json", "--", *_migration(project, kind))
    if ended.code != 6:
        return written, f"exit code {ended.code}: {ended.said}"
    back = project.cdc("restore", "--yes")
    if back.code:
        return written, f"the restore failed: {back.said}"
    for name in NAMES:
        written.committed[name].update(range(-1000, 0))
        there = Counter(row for (row,) in project.database.rows(f"select {COLUMNS[name]} from {schema}.{name}"))
        if there != written.committed[name]:
            missing, more = written.committed[name] - there, there - written.committed[name]
            return written, f"{name}: {missing.total()} rows missing, {more.total()} too many: {ended.said}"
    return written, ""


def _migration(project: Project, kind: str) -> tuple[str, ...]:
    if kind != "push":
        return psql(project, *KINDS[kind])
    (project.folder / "node_modules").symlink_to(install("stable", CACHE) / "node_modules")
    (project.folder / "schema.ts").write_text(SCHEMA)
    (project.folder / "drizzle.config.js").write_text(CONFIG)
    return ("npx", "drizzle-kit", "push", "--force")


def main(runs: int, kinds: list[str]) -> int:
    """The runs, one kind after the other; 1 when one of them lost something."""
    longest, rows = 0.0, 0
    binaries = find_binaries("machine")
    assert binaries
    with start_server(binaries, settings=DISPOSABLE) as server, tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            kind = kinds[run % len(kinds)]
            with new_project(server, Path(folder) / str(run), "") as project:
                written, wrong = destroy_and_restore(project, kind)
            longest, rows = max(longest, written.longest), rows + sum(map(Counter.total, written.committed.values()))
            sys.stdout.write(
                f"{run + 1:4} {kind}: {wrong or 'nothing missing, nothing doubled'}, {written.longest * 1000:.0f} ms\n"
            )
            if wrong:
                return 1
    sys.stdout.write(
        f"{rows:,} rows, none missing, none doubled; a writer was held up {longest * 1000:.0f} ms at most\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:] or [*KINDS, "push"]))
