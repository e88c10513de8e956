"""The case of a restore: the big tables into a database where they are gone."""

from bench.data import BIG, make_big
from bench.ground import Ground
from bench.measure import Way, emptied, interleave, median, run_once
from bench.outcome import Outcome
from bench.peers import INSERTS, copy_in, copy_out, naive, one_dump

_PART = 100
"""Of the naive files' rows one in so many is restored: a statement each, and a wait for the disk after each."""


def restore(ground: Ground) -> Outcome:
    """Big, back into a database where the tables are gone, from the files of each."""
    make_big(ground)
    made = ground.folder / "made"
    emptied(made)()
    scripts = (
        f"{naive(BIG)}\n{_parts()}",
        f"pg_dump {INSERTS} -t 'public._cdc_*' -f one.sql",
        one_dump(""),
        copy_out(BIG),
        "pg_dump -s --section=pre-data -t 'public._cdc_*' -f tables.sql",
    )
    sessions = {name: ground.ours(f"made {name}", "backup", format=name, drill=True) for name in ("sql", "copy")}
    for way in (*(ground.shell("made", script, folder=made) for script in scripts), *sessions.values()):
        run_once(way)

    def gone() -> None:
        ground.execute(f"drop table if exists {', '.join(BIG)}", "checkpoint")

    def ours(name: str, format_: str) -> Way:
        return Way(
            name=name,
            argv=(sessions[format_].argv[0], "restore", "--yes"),
            environment=ground.environment,
            cwd=sessions[format_].cwd,
            before=gone,
        )

    def by_psql(name: str, format_: str) -> Way:
        (session,) = (sessions[format_].cwd / "sessions").glob("backup_*Z")
        return ground.shell(name, f"psql -Xq -f {session}/restore.sql", folder=session, before=gone)

    part = f"psql -f, naive files, one row in {_PART}"
    slow, one = "psql -f, naive files", "psql -1 -f, one pg_dump, 100 rows an INSERT"
    archive, whole = "pg_restore -j2, COPY", "pg_restore -1, COPY"
    mine, copied = "cdc-backup restore, sql", "cdc-backup restore, copy"
    ways = (
        ours(mine, "sql"),
        by_psql("psql -f restore.sql, sql", "sql"),
        ground.shell(one, "psql -Xq -v ON_ERROR_STOP=1 -1 -f one.sql", folder=made, before=gone),
        ours(copied, "copy"),
        by_psql("psql -f restore.sql, copy", "copy"),
        ground.shell(archive, f'pg_restore -j2 -d "$PGDATABASE" {made}/dump', folder=made, before=gone),
        ground.shell(whole, f'pg_restore -1 -d "$PGDATABASE" {made}/dump', folder=made, before=gone),
        ground.shell("COPY in, two at a time", copy_in(BIG, str(made)), folder=made, before=gone),
        ground.shell(part, f"for file in {made}/*.part; do psql -Xq -f $file; done", folder=made, before=gone),
    )
    outcome = Outcome(title="restore", runs=interleave(ways, ground.rounds))
    outcome.estimates[slow] = median(outcome.runs[part]) * _PART
    outcome.goal(mine, slow, 0.15)
    outcome.goal(mine, one, 1.1)
    outcome.goal(copied, archive, 1.2)
    outcome.goal(copied, whole, 1.2)
    return outcome


def _parts() -> str:
    """One INSERT in so many of each naive file, all else whole."""
    return f"for file in _cdc_*.sql; do awk '/^INSERT/ && ++n % {_PART} {{ next }} 1' $file >$file.part; done"
