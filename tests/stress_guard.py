"""Writers that never stop, and migrations that destroy what they write to: not one committed row may be missing.

    python -m tests.stress_guard RUNS [KIND …]

Four writers commit to three CDC tables as fast as they can, one of them through subtransactions, while a safe recipe
backs up and runs a migration that drops, truncates or pushes. Then everything is restored and compared, row by row:
nothing may be missing, nothing doubled. Says how long a writer was held up at most. A few runs of it are a test.
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
from tests.servers import find_binaries

TABLES = """
create schema audit;
create table users (id int primary key);
create table audit._cdc_keyed (id bigint primary key, note text);
create table audit._cdc_keyless (id bigint, note text);
create table audit._cdc_child (
    id bigint generated always as identity, number bigint unique, by_user int references users);
"""

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


@dataclass
class Writing:
    """What the writers committed, by table, and the longest time that one statement took, in seconds."""

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
                insert = f"insert into audit.{name} ({COLUMNS[name]}) values ({row})"
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
def writing(project: Project) -> Iterator[Writing]:
    """Four writers, for as long as the block lasts; it begins when each has written something."""
    writing, begun = Writing(), threading.Barrier(5)
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
    for name in NAMES:
        project.database.execute(
            f"insert into audit.{name} ({COLUMNS[name]}) select -g from generate_series(1, 1000) g"
        )
    with writing(project) as written:
        ended = project.cdc("run-safe", "--yes", "--json", "--", *psql(project, *KINDS[kind]))
    if ended.code != 6:
        return written, f"exit code {ended.code}: {ended.said}"
    back = project.cdc("restore", "--yes")
    if back.code:
        return written, f"the restore failed: {back.said}"
    for name in NAMES:
        written.committed[name].update(range(-1000, 0))
        there = Counter(row for (row,) in project.database.rows(f"select {COLUMNS[name]} from audit.{name}"))
        if there != written.committed[name]:
            missing, more = written.committed[name] - there, there - written.committed[name]
            return written, f"{name}: {missing.total()} rows missing, {more.total()} too many: {ended.said}"
    return written, ""


def main(runs: int, kinds: list[str]) -> int:
    """The runs, one kind after the other; 1 when one of them lost something."""
    longest, rows = 0.0, 0
    binaries = find_binaries("machine")
    assert binaries
    with start_server(binaries, settings=DISPOSABLE) as server, tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            kind = kinds[run % len(kinds)]
            with new_project(server, Path(folder) / str(run), TABLES) as project:
                project.configure(schemas=["audit"])
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
    sys.exit(main(int(sys.argv[1]), sys.argv[2:] or list(KINDS)))
