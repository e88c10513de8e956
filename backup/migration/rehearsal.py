"""The real migration command on a scratch database, to learn what it would destroy."""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from backup.errors import BackupError, ProcessError
from backup.migration.command import MigrationCommand, without_passwords
from backup.migration.drizzle import Outcome, judge_drizzle, question_of
from backup.migration.drizzle_unasked import Unasked, unasked
from backup.migration.faults import Fault, find_faults, machinery_before
from backup.migration.redirect import Tool, leads_by_pg, probe, redirected, tool_of, why_not
from backup.migration.verdict import Change, Verdict, judge
from backup.postgres.catalog import digest_catalog
from backup.postgres.clients import Clients
from backup.postgres.cluster import changed_objects, shared_objects
from backup.postgres.copy import Copied, copy_database
from backup.postgres.database import Database
from backup.postgres.newer import mark_horizon
from backup.postgres.references import Name, References, find_references, find_state
from backup.postgres.scratch import COUNTED_AT_ONCE, Scratch, count_sessions, scratch_database
from backup.postgres.snapshot import Count, count_rows
from backup.postgres.tables import Connection, Table, find_tables_by
from backup.process import Tried, try_out

TIME_LIMIT = 300.0
"""Seconds that a command may take in a rehearsal where nobody set another limit."""

_LAG = 1.0
"""Seconds by which what PostgreSQL 14 counts may lag behind, twice its PGSTAT_STAT_INTERVAL; 15 shares memory."""

_SHOWN = 5
_CHANGES_SHOWN = 20


class Watched(Protocol):
    """What stands on the real tables during a rehearsal.

    `strikes` are sentences, one for each statement that wanted to take a real table and was kept from it;
    `struck` is set with the first.
    """

    @property
    def strikes(self) -> Sequence[str]: ...  # noqa: D102 - see above

    @property
    def struck(self) -> threading.Event: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a command would do to the CDC tables.

    `verdicts` has each of them, in the order given; all are `unknown` where `unknown` says why there is no
    forecast. `through` has for one (schema, name) the table by whose cascade it is struck. `limits` are what
    the rehearsal could not show, or did in another way; `whole` says that the copy had every row. `failure` says why
    the command did not do its work there; `output` is what it wrote. `place` is where the scratch database was.
    """

    command: MigrationCommand
    verdicts: tuple[Verdict, ...]
    through: Mapping[Name, Name] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    limits: tuple[str, ...] = ()
    whole: bool = False
    unknown: str = ""
    failure: str = ""
    output: str = ""
    place: str = ""
    seconds: float = 0.0

    @property
    def losses(self) -> tuple[Verdict, ...]:
        """What it would destroy, as far as that is known."""
        return tuple(v for v in self.verdicts if v.is_loss and v.change is not Change.UNKNOWN)

    @property
    def at_risk(self) -> tuple[Verdict, ...]:
        """The tables about which nobody can say that they are safe, although no loss was seen."""
        return tuple(v for v in self.verdicts if v.change is Change.UNKNOWN)

    @property
    def safe(self) -> tuple[Verdict, ...]:
        """The tables that it leaves alone."""
        return tuple(v for v in self.verdicts if not v.is_loss)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The real database, and how a scratch database is made from it.

    `url` is what the variable that is called `variable` holds; `also` are other tables whose rows are copied,
    `scratch` where the copy goes, `fingerprints` what the drill saw of each table (schema, name), `watched` puts
    something on the real tables while a command runs.
    """

    database: Database
    tables: tuple[Table, ...]
    counts: Mapping[int, Count]
    clients: Clients
    scratch: str
    also: Sequence[str] | Literal["*"]
    lock_timeout: float
    variable: str
    url: str | None
    environment: Mapping[str, str] = field(repr=False)
    time_limit: float
    fingerprints: Mapping[Name, str]
    watched: Callable[[], AbstractContextManager[Watched]]


class _NoForecastError(Exception):
    """Why nothing can be said; the chain may go on without."""


def nothing_known(
    command: MigrationCommand, tables: Sequence[Table], counts: Mapping[int, Count], reason: str, seconds: float = 0.0
) -> Forecast:
    """A forecast that says of every table that nobody knows."""
    rows = {table.oid: counts[table.oid].rows if table.oid in counts else 0 for table in tables}
    verdicts = tuple(_unknown(table.schema, table.name, rows[table.oid], "") for table in tables)
    return Forecast(command=command, verdicts=verdicts, unknown=reason, seconds=seconds)


def rehearse(command: MigrationCommand, stage: Stage) -> Forecast:
    """Run the command on a copy of the database, and judge the copy.

    It runs without a terminal, with the variable of the URL pointing at the copy, the `PG*` variables too if they
    led to the real database, and ends with all that it started. Before, what it says of itself must not speak
    against that it follows them; while it runs, a session on the copy must be seen; afterwards, the real database's
    catalog must be what it was, and so must what it shares with the other databases of its server.

    Raises:
        BackupError: the command reached the real database, its catalog or what its server's databases share changed
            meanwhile, or the command ran and was not seen on the copy.
    """
    began = time.monotonic()
    try:
        by_pg = leads_by_pg(stage.database)
        reason = why_not(
            command,
            database=stage.database,
            variable=stage.variable,
            environment=stage.environment,
            by_pg=by_pg,
            shared=stage.scratch != "embedded",
        )
        if reason:
            raise _NoForecastError(reason)
        with scratch_database(stage.database, stage.scratch) as scratch:
            try:
                copied = copy_database(
                    stage.database,
                    scratch.database,
                    stage.tables,
                    also=stage.also,
                    clients=stage.clients,
                    lock_timeout=stage.lock_timeout,
                )
            except BackupError as error:
                raise _NoForecastError(error.what) from error
            forecast = _rehearse_on(scratch, copied, command, stage, by_pg=bool(by_pg))
    except _NoForecastError as reason:
        forecast = nothing_known(command, stage.tables, stage.counts, str(reason))
    return replace(forecast, seconds=time.monotonic() - began)


def _rehearse_on(scratch: Scratch, copied: Copied, command: MigrationCommand, stage: Stage, *, by_pg: bool) -> Forecast:
    with tempfile.TemporaryDirectory(prefix="cdc-backup-") as folder, scratch.database.connect() as seen:
        run = _Run(command=command, stage=stage, scratch=scratch.database, seen=seen, by_pg=by_pg)
        if (harmless := probe(command.argv)) and not run.connects(harmless):
            raise _NoForecastError(f"`{harmless[-1]}` of it did not connect to the scratch database")
        names = [(table.schema, table.name) for table in stage.tables]
        found = {(table.schema, table.name): table for table in find_tables_by(seen, [], names)}
        tables = tuple(found[name] for name in names)
        counts, references, digest = count_rows(seen, tables), find_references(seen, tables), digest_catalog(seen)
        machinery = machinery_before(scratch.database, tables)
        with seen.transaction():
            horizon = mark_horizon(seen, tables)
        way = (
            unasked(command.argv, command.directory, Path(folder))
            if tool_of(command.argv) is Tool.DRIZZLE
            else Unasked(argv=command.argv)
        )
        before = _look(stage.database)
        tried, connected = run.to_its_end(way)
        _refuse_changes(command, stage.database, before, _look(stage.database))
        if not connected:
            said = without_passwords(tried.output).strip().rpartition("\n")[2]
            raise BackupError(
                f"`{command}` was run to be rehearsed, and never connected to the scratch database. It ended with exit "
                f"code {tried.returncode}" + (f", and last said “{said}”." if said else "."),
                untouched="The migration was not started. But in the rehearsal it may have run on another database, "
                "also on the real one.",
                remedy=f"Look there. What leads it elsewhere than {stage.variable} must be found; until then: "
                "--no-rehearse.",
            )
        if tried.expired:
            raise _NoForecastError(f"it was ended after {stage.time_limit:g} s, the time limit of a rehearsal")
        if command.drizzle and (question := question_of(tried.output)):
            raise _NoForecastError(f"it has a question that only a person can answer: “{question}”")
        failure = _failure(command, tried, changed=digest_catalog(seen) != digest)
        if failure and copied.in_part:
            raise _NoForecastError(
                f"it failed there, perhaps because not all rows of {_names(copied.in_part)} were copied "
                f"(rehearse_data): {failure}"
            )
        proofs = {table.oid: stage.fingerprints.get((table.schema, table.name), "") for table in tables}
        verdicts = judge(scratch.database, tables, counts, {}, horizon=horizon, fingerprints=proofs)
        faults = find_faults(scratch.database, machinery, tables, verdicts)
        after = find_state(seen, references.state)
    return Forecast(
        command=command,
        verdicts=tuple(_doubted(verdict, references, copied) for verdict in verdicts),
        through=_through(verdicts, references, after),
        faults=tuple(fault for fault in faults if fault.is_loss),
        limits=tuple(_limits(way, copied, command, stage.variable)),
        whole=not copied.in_part,
        failure=failure,
        output=tried.output if failure else "",
        place=scratch.place,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Runs of the command on the scratch database; `seen` is our own connection there."""

    command: MigrationCommand
    stage: Stage
    scratch: Database
    seen: Connection
    by_pg: bool

    def connects(self, argv: tuple[str, ...]) -> bool:
        """Whether a command that only reads does so on the scratch database."""
        sessions = self._sessions()
        self._try(argv)
        return self._sessions() > sessions

    def to_its_end(self, way: Unasked) -> tuple[Tried, bool]:
        """What became of the command, its questions answered, and whether it connected to the scratch database."""
        sessions = self._sessions()
        tried = self._try(way.argv)
        while way.answer(tried.output):
            tried = self._try(way.argv)
        return tried, self._sessions() > sessions

    def _try(self, argv: tuple[str, ...]) -> Tried:
        stage = self.stage
        environment = redirected(
            stage.environment, self.scratch, variable=stage.variable, url=stage.url, by_pg=self.by_pg
        )
        with stage.watched() as watched:
            try:
                tried = try_out(
                    argv,
                    environment=environment,
                    cwd=self.command.directory,
                    time_limit=stage.time_limit,
                    stop=watched.struck,
                )
            except ProcessError as error:
                raise _NoForecastError(f"it could not be started: {error.stderr}") from error
        if watched.strikes:
            raise BackupError(
                f"`{self.command}` was to be rehearsed on a scratch database, and reached for the real one: "
                f"{'; '.join(watched.strikes)}.",
                untouched="The CDC tables were held, and it was ended; what it did to other tables, nobody knows.",
                remedy="Look at the real database. Whatever names it for this command besides the variable "
                f"{stage.variable} must be found; until then: --no-rehearse.",
            )
        return tried

    def _sessions(self) -> int:
        """How many sessions the scratch database has seen; a session is counted once it is idle or over.

        Raises:
            _NoForecastError: the server does not count them (before PostgreSQL 14).
        """
        if self.seen.info.server_version < COUNTED_AT_ONCE:
            time.sleep(_LAG)
        sessions = count_sessions(self.seen)
        if sessions is None:
            raise _NoForecastError("this server, older than PostgreSQL 14, cannot tell whether the command connected")
        return sessions


class _Seen(NamedTuple):
    """The catalog of the real database, and what it shares with the others of its server."""

    digest: str
    shared: dict[str, str]


def _look(database: Database) -> _Seen:
    with database.connect() as connection:
        return _Seen(digest_catalog(connection), shared_objects(connection))


def _refuse_changes(command: MigrationCommand, database: Database, before: _Seen, after: _Seen) -> None:
    """Nothing may have become of the real database and its server while the command ran elsewhere."""
    if before.digest != after.digest:
        raise BackupError(
            f"While `{command}` was rehearsed, the catalog of the real database {database} changed: either "
            "the command reached it, or somebody else changed something.",
            untouched="The migration was not started.",
            remedy="Look what changed. --no-rehearse migrates without a rehearsal.",
        )
    if changed := changed_objects(before.shared, after.shared):
        more = f", and {len(changed) - _CHANGES_SHOWN:,} more" if len(changed) > _CHANGES_SHOWN else ""
        raise BackupError(
            f"While `{command}` was rehearsed, something changed that all databases of the server {database.host} "
            f"share: {'; '.join(changed[:_CHANGES_SHOWN])}{more}. Either the rehearsal did that, or somebody else.",
            untouched="The migration was not started.",
            remedy="Undo it, if it was the rehearsal: the migration would find it done. backup.scratch: embedded "
            "rehearses on a server of its own; --no-rehearse migrates without.",
        )


def _failure(command: MigrationCommand, tried: Tried, *, changed: bool) -> str:
    """Why the command did not do its work, or nothing."""
    drizzle = command.drizzle
    if not drizzle:
        return command.why_failed(tried.output, tried.returncode)
    judgement = judge_drizzle(drizzle, tried.output, tried.returncode, catalog_changed=changed)
    return "" if judgement.outcome in (Outcome.APPLIED, Outcome.NOTHING_TO_DO) else judgement.sentence


def _doubted(verdict: Verdict, references: References, copied: Copied) -> Verdict:
    """The verdict, or `unknown` where rows that were not copied could have struck the table."""
    doubtful = sorted(references.deleting((verdict.schema, verdict.name)).intersection(copied.in_part))
    if verdict.is_loss or not doubtful:
        return verdict
    why = f"a DELETE in {_names(doubtful)} would reach it, and not all rows of that were there (rehearse_data)"
    return _unknown(verdict.schema, verdict.name, verdict.rows_before, why)


def _through(
    verdicts: Sequence[Verdict], references: References, after: Mapping[Name, tuple[int, bool]]
) -> dict[Name, Name]:
    """For each table that was struck by a cascade: from where, as far as the catalog tells."""
    found = {}
    for verdict in verdicts:
        name, dropped = (verdict.schema, verdict.name), verdict.change in (Change.DROPPED, Change.REPLACED)
        if dropped or verdict.change in (Change.EMPTIED, Change.ROWS_LOST):
            source = references.source(name, after, dropped=dropped)
            if source:
                found[name] = source
    return found


def _limits(way: Unasked, copied: Copied, command: MigrationCommand, variable: str) -> list[str]:
    limits = [way.differs] if way.differs else []
    if tool_of(command.argv) is Tool.OTHER:
        limits.append(f"run although nothing but its session on the copy shows that it follows {variable}")
    if copied.in_part:
        limits.append(f"run with only the first row of {_names(copied.in_part)}: what depends on their data may differ")
    if copied.extensions:
        limits.append(f"run without the extension {', '.join(copied.extensions)}")
    return limits


def _names(names: Sequence[Name]) -> str:
    shown = [name if schema == "public" else f"{schema}.{name}" for schema, name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(shown)}{more}"


def _unknown(schema: str, name: str, rows: int, detail: str) -> Verdict:
    return Verdict(schema=schema, name=name, change=Change.UNKNOWN, rows_before=rows, rows_after=None, detail=detail)
