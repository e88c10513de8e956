"""The one orchestration that the recipes and a Python caller share: look, back up, migrate, judge.

What only some recipes need is imported by those: a plain backup is over before all of it would be read.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backup.errors import (
    BackupError,
    CDCBackupError,
    DatabaseError,
    DeclinedError,
    ProcessError,
    UsageError,
)
from backup.postgres.blindness import passed_over, refuse_blindness
from backup.postgres.snapshot import Snapshot, identify, take_snapshot
from backup.profile import step
from backup.reach import Reach
from backup.report import Report, plural, size, visible
from backup.result import Result, Status
from backup.session.folder import Manifest, Session, each_session, folder_size, is_partial, new_session, open_session
from backup.session.prune import Kept, prune_sessions, review_sessions
from backup.session.restore import RestoreMode
from backup.session.summary import would_gain_by_copy
from backup.session.write import write_session
from backup.settings import Mode, Rehearse, Settings, load_settings

if TYPE_CHECKING:
    from backup.migration.command import MigrationCommand
    from backup.migration.rehearsal import Forecast, Stage
    from backup.postgres.clients import Clients
    from backup.postgres.database import Database
    from backup.postgres.serving import ServingClients
    from backup.safe_run import SafeRun

_NAMED = 5
"""Tables that are named of those that are gone, or were not asked for."""


class CDCBackup:
    """Backs up the CDC tables of a project's database, and stands around its migrations.

    Args:
        path: where sessions go; wins over the configuration's `path`.
        config: the configuration file; found from the current folder upwards unless given.
        report: whom to tell; a terminal's lines unless given.
        dry: look and say, but start neither a backup nor a command.
        program: what stands before a recipe's name in an advice: `invoke migration.`, `cdc-backup `.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        config: str | Path | None = None,
        report: Report | None = None,
        dry: bool = False,
        program: str = "cdc-backup ",
    ) -> None:
        if "" in (path, config):
            raise UsageError("An empty path was given.", untouched="Nothing was done.")
        self.settings: Settings = load_settings(
            Path(config) if config is not None else None, path=Path(path) if path is not None else None
        )
        self.result = Result()
        self._reach = Reach(self.settings)
        self._report = report or Report()
        self._dry = dry
        self._program = program
        self._named = tuple(
            word for flag, value in (("--config", config), ("--path", path)) if value for word in (flag, str(value))
        )
        # Without these a recipe that is advised would look at other sessions, or at another database.
        variable = None if config else os.environ.get("CDC_BACKUP_CONFIG")
        self._leading = (*(("--config", variable) if variable else ()), *self._named)

    def run_backup(self, tables: Sequence[str] = (), *, interactive: bool = False) -> list[Path]:
        """Back up every CDC table, or those named, into a new session.

        Args:
            tables: names, or `schema.name`; one that does not exist is skipped and named.
            interactive: ask first, where a person is there to answer and `mode` is `prompt`.

        Returns:
            The files of the new session; empty when there is nothing to back up, or `enabled` is false.

        Raises:
            CDCBackupError: it was not backed up; `exit_code` says which way it failed.
        """
        if not self.settings.enabled:
            self._report.warn(f"{self._disabled()} Nothing was backed up.")
            self.result.status = Status.DISABLED
            return []
        self._prepare(tables, (), Rehearse.OFF, ask=interactive, question="Back up now?", migrating=False)
        return list(self.result.session.files) if self.result.session else []

    def prepare(
        self, commands: Sequence[MigrationCommand] = (), *, ask: bool, rehearse: Rehearse | None = None
    ) -> Forecast | None:
        """Look what is there, back up, rehearse the migration, say what is at risk, ask or not.

        A rehearsal comes after the backup, because it runs the migration command: where that reaches the real
        database even so, everything is in the session. Without a rehearsal the question comes first.

        Args:
            commands: what is going to be run; without any there is nothing to rehearse.
            ask: ask where a person is there to answer and `mode` is `prompt`; else back up unasked.
            rehearse: as the configuration has it, unless given.

        Returns:
            The forecast that somebody agreed to.

        Raises:
            DeclinedError: the answer was no.
            UsageError: backups are switched off.
            MigrationError: a command fails in the rehearsal.
            CDCBackupError: it was not backed up.
        """
        self._refuse_disabled()
        how = rehearse or self.settings.rehearse
        return self._prepare((), commands, how, ask=ask, question="Back them up and go on?", migrating=True)

    def rehearse(self, command: MigrationCommand) -> None:
        """Back up, run a command on a scratch copy of the database, and say what it would do to the CDC tables.

        Raises:
            MigrationError: it fails there.
            BackupError: it was not backed up, or no forecast could be made.
        """
        command.check()
        self._refuse_disabled()
        self._prepare((), (command,), Rehearse.ON, ask=False, question="", migrating=True)
        if self._dry:
            self._report.say(f"Would rehearse: {command}")
        elif self.result.tables:
            self.result.status = Status.REHEARSED

    def run_safe(
        self,
        commands: Sequence[MigrationCommand],
        *,
        ask: bool,
        without_backup: bool = False,
        rehearse: Rehearse | None = None,
        before: MigrationCommand | None = None,
    ) -> None:
        """Rehearse, back up, run the migration commands one after the other, and judge by the catalog what they did.

        Args:
            commands: what to run; the first that does not do its work ends the row.
            ask: as for `prepare`.
            without_backup: run them with nothing to restore from, because somebody said so in so many words.
            rehearse: as for `prepare`; without a backup there is no rehearsal either.
            before: a command that touches no database and comes first, because it writes what the others run.

        Raises:
            MigrationError: a command failed, in the rehearsal already or really, or did not do its work.
            DestroyedError: CDC data is gone; the message has the command that brings it back.
            CDCBackupError: the backup failed or was declined, and nothing was started.
        """
        from backup.foresee import refuse_elsewhere

        everything = [*([before] if before else []), *commands]
        for command in everything:
            command.check()
        if not without_backup:
            self._refuse_disabled()
            for command in commands:
                refuse_elsewhere(command, self._database)
        agreed: Forecast | None = None
        with self._files_told(before):
            if before and not self._dry:
                self._safe_run(None, ask=ask).run_before(before)
            try:
                if without_backup:
                    self._report.warn("Without a backup, as you said: what this destroys cannot be brought back.")
                    with self._looked_at(self._database, (), migrating=True) as snapshot:
                        self.result.horizon = snapshot.horizon
                else:
                    agreed = self.prepare(commands, ask=ask, rehearse=rehearse)
                catalog = self._catalog(needed=any(command.drizzle for command in commands))
            except BackupError as error:
                if "not started" not in error.untouched:
                    error.untouched = f"{error.untouched} The migration was not started.".strip()
                raise
        if self._dry:
            for command in everything:
                self._report.say(f"Would run: {command}")
            return
        self._safe_run(agreed, ask=ask).run(commands, catalog)

    def _safe_run(self, agreed: Forecast | None, *, ask: bool) -> SafeRun:
        from backup.safe_run import SafeRun

        return SafeRun(
            database=self._database,
            settings=self.settings,
            agreed=agreed,
            ask=ask,
            restore=f"{self._program}restore",
            named=self._leading,
            report=self._report,
            result=self.result,
        )

    @contextmanager
    def _files_told(self, command: MigrationCommand | None) -> Iterator[None]:
        """Add to an error of the block which SQL files the command had left by then."""
        before = _sql_files(command.directory) if command else set()
        try:
            yield
        except (CDCBackupError, KeyboardInterrupt) as error:
            left = sorted(str(file) for file in _sql_files(command.directory) - before) if command else []
            if left:
                self.result.left = f"`{command}` left {', '.join(left)}."
            if left and isinstance(error, CDCBackupError):
                error.untouched = f"{error.untouched}\n{self.result.left}".strip()
            raise

    def restore(
        self,
        session: str | None = None,
        tables: Sequence[str] = (),
        *,
        mode: RestoreMode = RestoreMode.MISSING,
        plan_only: bool = False,
        even_renamed: bool = False,
        without_delta: bool = False,
        ask: bool = True,
    ) -> None:
        """Bring back what a session holds: what is gone, and by mode what is missing, changed or to be compared.

        Args:
            session: its name or its path; the newest complete one unless given.
            tables: names, or `schema.name`; all of the session's unless given.
            mode: what becomes of a table that is there.
            plan_only: only say what would be done.
            even_renamed: bring a table back although it is there under another name.
            without_delta: leave out the rows that were saved after the session, when the migration took the tables.
            ask: ask, where rows of today would go.

        Raises:
            RestoreError: it failed, and nothing was changed.
            DeclinedError: the answer was no.
            UsageError: there is no such session, or no such table in it.
        """
        from backup.bring_back import restore_into

        opened = self._session(session)
        elsewhere = () if tables else tuple(self._elsewhere(opened))
        restore_into(
            self._database,
            opened,
            tables,
            mode=mode,
            plan_only=plan_only or self._dry,
            even_renamed=even_renamed,
            without_delta=without_delta,
            ask=ask,
            lock_timeout=self.settings.lock_timeout,
            clients=self._clients,
            report=self._report,
            result=self.result,
        )
        for line in elsewhere:
            self._report.warn(line)

    def drill(self, session: str | None = None) -> None:
        """Prove a session, the newest complete one unless named, on a scratch database.

        Raises:
            BackupError: it could not be proven.
        """
        opened = self._session(session)
        self.result.session = opened
        self._drill(self._database, opened, self._clients())
        self.result.status = Status.DRILLED

    def prune(self) -> None:
        """Delete the sessions that are older than `retention_days` and that nothing else keeps."""
        reviewed = self._review()
        for kept in reviewed:
            self._report.say(f"  {kept.listed.path.name}: " + (f"stays, {kept.reason}" if kept.reason else "goes"))
        if self._dry:
            self.result.status = Status.DRY_RUN
            return
        self.result.pruned = prune_sessions(reviewed)
        self.result.status = Status.PRUNED
        self._report.say(f"Deleted {plural(len(self.result.pruned), 'session')}.")

    def list_sessions(self) -> tuple[Kept, ...]:
        """The sessions in the configured folder, newest first, also those that are not complete.

        Raises:
            UsageError: the folder that was named is not there; the configuration's comes with the first backup.
        """
        from backup.listing import show_sessions

        if "--path" in self._named and not self.settings.path.is_dir():
            raise UsageError(
                f"There is no folder {self.settings.path}.",
                untouched="Nothing was done.",
                remedy="Correct --path; without it the folder of the configuration is listed.",
            )
        sessions = self.result.sessions = self._review()
        self.result.status = Status.LISTED
        show_sessions(self._report, self.settings.path, sessions)
        return sessions

    def doctor(self) -> None:
        """Say what a backup needs: what was found, what is missing, what to do about it. Nothing is changed.

        Raises:
            UsageError: the configuration keeps a backup from working.
            BackupError: something else does.
        """
        from backup.doctor.diagnose import diagnose

        diagnose(
            self.settings,
            self._reach,
            named=self._named,
            program=self._program,
            report=self._report,
            result=self.result,
        )

    def init(self, *, ask: bool) -> None:
        """Write the configuration, the scripts of package.json and the line of .gitignore that the project lacks.

        Raises:
            DeclinedError: a change was not made, because somebody said no or nobody could be asked.
            UsageError: a file could not be written.
        """
        from backup.init import initialise

        initialise(self.settings, ask=ask, look_only=self._dry, report=self._report, result=self.result)

    def _review(self) -> tuple[Kept, ...]:
        settings = self.settings
        return review_sessions(settings.path, retention_days=settings.retention_days, keep_last=settings.keep_last)

    def _session(self, name: str | None) -> Session:
        """The session of that name or path; where none is named, this database's newest.

        One whose migration destroyed something that is not restored yet goes before newer ones.
        """
        if name is not None:
            path = Path(name).expanduser()
            return open_session(path if len(path.parts) > 1 or path.is_dir() else self.settings.path / name)
        with self._database.connect() as connection:
            here = identify(connection)
        reviewed = self._review()
        complete = [kept for kept in reviewed if not kept.listed.problem]
        ours = [kept for kept in complete if kept.is_of(here, self._database.host, self._database.name)]
        # Nobody knows of which database one is whose manifest cannot be read.
        damaged = [
            kept
            for kept in reviewed
            if kept.listed.problem
            and not is_partial(kept.listed.path)
            and (kept.listed.manifest is None or kept.is_of(here, self._database.host, self._database.name))
        ]
        if not ours:
            others = f"; what there is, {plural(len(complete), 'session')}, is of other databases" if complete else ""
            raise UsageError(
                f"There is no complete session of {self._database} in {self.settings.path}{others}."
                + "".join(f"\n  {kept.listed.path.name}: {kept.listed.problem}" for kept in damaged),
                untouched="Nothing was done.",
                remedy="--session names one of another database." if others else "",
            )
        for kept in damaged:
            self._report.warn(f"Not complete, and passed over: {kept.listed.path.name}: {kept.listed.problem}")
        # A copy of the database that was made of its files has the same identifier at another address.
        place = (self._database.host, self._database.name)
        at_home = [kept for kept in ours if kept.is_at(*place)] or ours
        owing = [kept for kept in at_home if kept.owes]
        for kept in owing[1:]:
            self._report.warn(f"What the migration after {kept.listed.path.name} destroyed is not restored either.")
        chosen = (owing or at_home)[0]
        path, newest = chosen.listed.path, ours[0].listed.path
        if path != newest:
            owed = f"what the migration after {path.name} destroyed is not restored"
            why = owed if owing else "it is of another address"
            self._report.warn(f"{newest.name} is newer, and passed over, because {why}; --session takes it.")
        unknown = [k for k in at_home if k.verdict and k.verdict.destroyed is None and k is not chosen]
        for kept in unknown[:1]:
            name = kept.listed.path.name
            self._report.warn(
                f"What the migration after {name} did is not known: {self._restore(name)} brings back what is gone."
            )
        if not chosen.is_at(*place):
            self._report.warn(f"{path.name} is of a database at another address: see that it is this one.")
        return open_session(path)

    @property
    def _database(self) -> Database:
        """The database that the project names; the same for all of a run."""
        return self._reach.database

    def _clients(self) -> ServingClients:
        with step("Connecting, finding clients"):
            return self._reach.clients()

    def _prepare(
        self,
        names: Sequence[str],
        commands: Sequence[MigrationCommand],
        how: Rehearse,
        *,
        ask: bool,
        question: str,
        migrating: bool,
    ) -> Forecast | None:
        forecast, asks, session, first = None, False, None, False
        clients = self._clients()
        if commands:
            from backup.foresee import foresee, is_rehearsed, refuse_strike

            first = is_rehearsed(commands, how)
        may_ask = ask and self.settings.mode is Mode.PROMPT and self._report.attended
        # One snapshot for what is shown and what is saved; none is held while somebody thinks about an answer.
        at_once = not self._dry and (first or not may_ask)
        with self._looked_at(self._database, names, migrating=migrating) as snapshot:
            there = bool(self.result.tables or names)
            if there and self.settings.drill:
                self._refuse_unprovable(clients)
            if there and not self._dry:
                self._report.say(f"The backup will go to {self.settings.path}")
            if there and at_once:
                session = self._save(snapshot, clients, migrating=migrating)
        if self._dry:
            self._report.say(f"Would back up into {self.settings.path}")
            self.result.status = Status.DRY_RUN
        elif not there:
            self.result.status = Status.NOTHING_TO_BACK_UP
        else:
            if session:
                self._prove(session, clients)
            if commands:
                forecast = foresee(commands, self._stage(clients), how, report=self._report, result=self.result)
            if first:
                refuse_strike(self._database, commands, self._program, self._report, self.result)
            asks = may_ask
            # Enter is no yes to a loss that was announced.
            harmless = forecast is None or not forecast.losses
            if asks and not self._report.ask("Go on?" if first else question, default=harmless):
                kept = f"The backup {session.path} stays" if session else "Nothing was backed up"
                raise DeclinedError("The answer was no.", untouched=f"{kept}, nothing was started.")
            if not session:
                with self._snapshot(self._database, names) as snapshot:
                    session = self._save(snapshot, clients, migrating=migrating)
                self._prove(session, clients)
        # Who is neither asked nor said so before has agreed to nothing.
        return forecast if asks or not ask else None

    def _refuse_unprovable(self, clients: ServingClients) -> None:
        """Refuse before anything is written what could not be proven afterwards."""
        from backup.postgres.scratch import find_place

        try:
            with step("Connecting, finding clients"):
                place = find_place(self._database, self.settings.scratch)
                # An embedded server has its own programs beside it.
                if place.host is not None:
                    clients.of(place.host)
        except CDCBackupError as error:
            error.what = f"What a backup holds could not be proven. {error.what}"
            error.untouched = "Nothing was backed up."
            error.remedy = f"{error.remedy} Or set backup.drill to off, to go on without a proof.".strip()
            raise

    def _stage(self, clients: Clients) -> Stage:
        from backup.database_url import database_url
        from backup.migration.rehearsal import TIME_LIMIT, Stage
        from backup.stand_guard import stand_against

        settings, url, drill = self.settings, database_url(self.settings), self.result.drill
        return Stage(
            database=self._database,
            tables=self.result.tables,
            counts=self.result.counts,
            clients=clients,
            scratch=settings.scratch,
            also=settings.rehearse_data,
            lock_timeout=settings.lock_timeout,
            variable=settings.url_variable,
            url=url.url if url else None,
            environment=os.environ,
            time_limit=settings.time_limit or TIME_LIMIT,
            fingerprints={(t.schema_name, t.name): t.fingerprint for t in drill.tables} if drill else {},
            watched=partial(stand_against, self._database, settings, self.result.tables),
        )

    @contextmanager
    def _looked_at(self, database: Database, names: Sequence[str], *, migrating: bool) -> Iterator[Snapshot]:
        """A snapshot, when it was said what is there and at risk."""
        with ExitStack() as held:
            with self._report.step("Counting rows"):
                snapshot = held.enter_context(self._snapshot(database, names))
            self._tell(database, snapshot, migrating=migrating)
            if not names:
                self._tell_vanished(snapshot)
            yield snapshot

    def _tell_vanished(self, snapshot: Snapshot) -> None:
        """Say which tables the newest session of this database holds, and the database does not any more."""
        newest = next((manifest for manifest in self._manifests() if not manifest.unasked), None)
        there = {str(table) for table in snapshot.tables}
        gone = [table.qualified for table in newest.tables if table.qualified not in there] if newest else []
        if newest and gone:
            self._report.warn(
                f"The newest session, {newest.session}, holds {_some_of(gone)}: no CDC table of today. If that was not"
                f" meant, {self._restore(newest.session)} brings back what is gone."
            )

    def _elsewhere(self, session: Session) -> Iterator[str]:
        """What a session of some tables alone lacks, and who holds it: back to the newest one of all tables."""
        seen = {table.qualified for table in session.manifest.tables}
        if not session.manifest.unasked:
            return
        for manifest in self._manifests():
            if names := [table.qualified for table in manifest.tables if table.qualified not in seen]:
                yield (
                    f"{session.name} is of some tables alone, and lacks {_some_of(names)}:"
                    f" {self._restore(manifest.session)} brings back what of that is gone."
                )
            seen.update(names)
            if not manifest.unasked:
                break
        if nowhere := [name for name in session.manifest.unasked if name not in seen]:
            yield f"{session.name} is of some tables alone, and no session holds {_some_of(nowhere)}."

    def _catalog(self, *, needed: bool) -> str:
        """A digest of the catalog; empty where somebody has locked what it speaks of, unless it is needed."""
        from backup.safe_run import look_at_catalog

        try:
            return look_at_catalog(self._database)
        except DatabaseError:
            if needed:
                raise
            return ""

    def _restore(self, session: str) -> str:
        """What a person types to restore a session, from the same configuration."""
        return f"{self._program}restore {shlex.join(['--session', session, *self._leading])}"

    def _manifests(self) -> Iterator[Manifest]:
        """Those of the complete sessions of this database, newest first."""
        for listed in each_session(self.settings.path):
            if (
                listed.manifest
                and not listed.problem
                and listed.manifest.is_at(self._database.host, self._database.name)
            ):
                yield listed.manifest

    def _tell(self, database: Database, snapshot: Snapshot, *, migrating: bool) -> None:
        settings = self.settings
        self.result.tables, self.result.counts = snapshot.tables, snapshot.counts
        refuse_blindness(database, snapshot, prefix=settings.prefix, schemas=settings.schemas)
        if migrating and snapshot.standby:
            raise UsageError(
                f"{database} is a standby; a migration changes its primary, which nobody can watch from here.",
                untouched="Nothing was backed up or started.",
                remedy="Use the primary's address, or target_session_attrs=read-write.",
            )
        if others := passed_over(snapshot, prefix=settings.prefix, schemas=settings.schemas):
            self._report.warn(others)
        tables, counts = self.result.tables, self.result.counts
        if not tables:
            schemas = "any schema" if settings.schemas == "*" else f"the schemas {', '.join(settings.schemas)}"
            self._report.warn(f"{database} has no table that begins with {settings.prefix!r} in {schemas}.")
            return
        rows = sum(count.rows for count in counts.values())
        self._report.say(
            f"{database} (PostgreSQL {snapshot.server_version.split()[0]}) has {plural(len(tables), 'CDC table')}"
        )
        self._report.say(f"with {plural(rows, 'row')} that a migration could destroy:")
        self._report.table(
            ("table", "#rows", "#size"),
            [(str(t), f"{counts[t.oid].rows:,}", size(counts[t.oid].bytes)) for t in tables if t.oid in counts],
        )
        if snapshot.unasked:
            self._report.warn(f"Not named, so not in the session: {_some_of(list(map(str, snapshot.unasked)))}.")

    def _snapshot(self, database: Database, names: Sequence[str]) -> AbstractContextManager[Snapshot]:
        settings = self.settings
        return take_snapshot(
            database,
            prefix=settings.prefix,
            schemas=settings.schemas,
            names=names,
            lock_timeout=settings.lock_timeout,
        )

    def _save(self, snapshot: Snapshot, clients: Clients, *, migrating: bool) -> Session:
        settings, expected = self.settings, sum(count.bytes for count in snapshot.counts.values())
        self.result.tables, self.result.counts = snapshot.tables, snapshot.counts
        try:
            with (
                new_session(settings.path) as partial,
                self._report.step("Backing up", 2 * expected, lambda: folder_size(partial)),
            ):
                if migrating:
                    self.result.horizon = snapshot.horizon
                session = write_session(
                    snapshot,
                    database=self._database,
                    clients=clients,
                    folder=partial,
                    jobs=settings.jobs,
                    format=settings.format,
                    compression=settings.compress or None,
                )
        except ProcessError as error:
            raise BackupError(
                error.what, untouched="The database was only read, and no session was published."
            ) from error
        self.result.session = session
        self.result.status = Status.BACKED_UP
        self._report.say(
            f"Backed up {plural(session.rows, 'row')} of {plural(len(session.files), 'table')} into {session.path}",
            "bold green",
        )
        return session

    def _prove(self, session: Session, clients: Clients) -> None:
        """Say what is in the session and what not, drill it, let old ones go."""
        settings = self.settings
        for other in session.manifest.not_kept:
            self._report.warn(f"  would go with the tables, and is not in the backup: {other}")
        for skipped in session.manifest.skipped:
            name = skipped.name if skipped.schema_name is None else f"{skipped.schema_name}.{skipped.name}"
            self._report.say(f"  skipped, no file: {visible(name)}: {skipped.reason}")
        if would_gain_by_copy(session.manifest):
            self._report.say("  so many rows come back in about half the time with backup.format: copy")
        if settings.drill:
            self._drill(self._database, session, clients)
        else:
            self._report.warn("Not drilled (backup.drill: off): nobody knows whether this can be restored.")
        try:
            with step("Pruning"):
                self.result.pruned = prune_sessions(self._review())
        except OSError as error:  # the backup is none the worse for it
            self._report.warn(f"Old sessions could not be pruned: {error}")

    def _drill(self, database: Database, session: Session, clients: Clients) -> None:
        from backup.postgres.scratch import scratch_database
        from backup.session.drill import drill_session
        from backup.session.undrilled import tell, undrilled

        scratch = None
        try:
            with (
                self._report.step("Drilling: restoring on a scratch database"),
                scratch_database(database, self.settings.scratch) as scratch,
            ):
                self.result.drill = drill_session(session, scratch=scratch, clients=clients, jobs=self.settings.jobs)
        except (BackupError, OSError) as error:
            if scratch is not None and isinstance(error, BackupError):
                raise
            raise undrilled(session, tell(error), getattr(error, "remedy", "See to that.")) from error
        self._report.say(f"Proven: restored on {scratch.place}, dumped again, and found the same.", "bold green")
        if self.result.drill.delta:
            self._report.say("Proven as well: dropped, restored with its delta, and found to hold both.", "bold green")
        for line in self.result.drill.unproven:
            self._report.warn(f"  not proven there: {line}")

    def _refuse_disabled(self) -> None:
        if not self.settings.enabled:
            raise UsageError(
                self._disabled(),
                untouched="Nothing was started.",
                remedy="Set it to true, or say --without-backup to migrate without any backup.",
            )

    def _disabled(self) -> str:
        return f"Backups are switched off (backup.enabled: false in {self.settings.source})."


def _sql_files(directory: Path) -> set[Path]:
    """The SQL files of a project, relative to its folder; not those of its packages."""
    found = set()
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name != "node_modules" and not name.startswith(".")]
        found |= {(Path(folder) / name).relative_to(directory) for name in files if name.endswith(".sql")}
    return found


def _some_of(tables: Sequence[str]) -> str:
    """The first of them by name, and how many there are more."""
    more = f" and {len(tables) - _NAMED} more" if len(tables) > _NAMED else ""
    return ", ".join(map(visible, tables[:_NAMED])) + more
