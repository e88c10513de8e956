"""The one orchestration that the recipes and a Python caller share: look, back up, migrate, judge."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from backup.errors import BackupError, DeclinedError, DestroyedError, MigrationError, ProcessError, UsageError
from backup.migration.command import Attended, MigrationCommand
from backup.migration.drizzle import Outcome, judge_drizzle
from backup.migration.verdict import judge
from backup.postgres.catalog import digest_catalog
from backup.postgres.clients import Clients, find_clients
from backup.postgres.database import Database
from backup.postgres.snapshot import Snapshot, take_snapshot
from backup.report import Report, plural, size
from backup.result import Ran, Result, Status
from backup.session.folder import RESTORE_SCRIPT, Listed, folder_size, list_sessions, new_session
from backup.session.write import write_session
from backup.settings import Mode, Settings, database_url, load_settings


class CDCBackup:
    """Backs up the CDC tables of a project's database, and stands around its migrations.

    Args:
        path: where sessions go; wins over the configuration's `path`.
        config: the configuration file; found from the current folder upwards unless given.
        report: whom to tell; a terminal's lines unless given.
        dry: look and say, but start neither a backup nor a command.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        config: str | Path | None = None,
        report: Report | None = None,
        dry: bool = False,
    ) -> None:
        if "" in (path, config):
            raise UsageError("An empty path was given.", untouched="Nothing was done.")
        self.settings: Settings = load_settings(
            Path(config) if config is not None else None, path=Path(path) if path is not None else None
        )
        self.result = Result()
        self._report = report or Report()
        self._dry = dry

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
        self._prepare(tables, ask=interactive, question="Back up now?")
        return list(self.result.session.files) if self.result.session else []

    def prepare(self, *, ask: bool) -> None:
        """Look what is there, say what is at risk, ask or not, back up.

        Args:
            ask: ask where a person is there to answer and `mode` is `prompt`; else back up unasked.

        Raises:
            DeclinedError: the answer was no.
            UsageError: backups are switched off.
            CDCBackupError: it was not backed up.
        """
        if not self.settings.enabled:
            raise UsageError(
                self._disabled(),
                untouched="Nothing was started.",
                remedy="Set it to true, or say --without-backup to migrate without any backup.",
            )
        self._prepare((), ask=ask, question="Back them up and go on?")

    def run_safe(self, commands: Sequence[MigrationCommand], *, ask: bool, without_backup: bool = False) -> None:
        """Back up, run the migration commands one after the other, and judge by the catalog what they did.

        Args:
            commands: what to run; the first that does not do its work ends the row.
            ask: as for `prepare`.
            without_backup: run them with nothing to restore from, because somebody said so in so many words.

        Raises:
            MigrationError: a command failed, or did not do its work.
            DestroyedError: CDC data is gone; the message has the command that brings it back.
            CDCBackupError: the backup failed or was declined, and nothing was started.
        """
        for command in commands:
            command.check()
        if without_backup:
            self._report.warn("Without a backup, as you said: what this destroys cannot be brought back.")
            self._look(self._database(), ())
        else:
            try:
                self.prepare(ask=ask)
            except BackupError as error:
                error.untouched = f"{error.untouched} The migration was not started.".strip()
                raise
        if self._dry:
            for command in commands:
                self._report.say(f"Would run: {command}")
            return
        failure = self._migrate(commands)
        self.result.verdict = judge(self._database(), self.result.tables, self.result.counts)
        self._conclude(failure)

    def list_sessions(self) -> tuple[Listed, ...]:
        """The sessions in the configured folder, newest first, also those that are not complete."""
        listed = self.result.sessions = list_sessions(self.settings.path)
        self.result.status = Status.LISTED
        self._report.say(f"{plural(len(listed), 'session')} in {self.settings.path}")
        if listed:
            self._report.table(("session", "database", "#tables", "#rows", "#size", "complete"), map(_row, listed))
        return listed

    def _database(self) -> Database:
        """The database that the project names, or the `PG*` variables do; never any other."""
        url = database_url(self.settings)
        if url is not None:
            return Database.from_url(url.url, url.source)
        database = Database.from_environment()
        if database is None:
            raise UsageError(
                f"No database: {self.settings.url_variable} is set neither in the environment nor in "
                f"{self.settings.directory / '.env'}, nor is any of PGHOST, PGSERVICE and PGDATABASE.",
                untouched="Nothing was read or started.",
                remedy=f"Set {self.settings.url_variable}=postgresql://user:password@host:port/database.",
            )
        return database

    def _prepare(self, names: Sequence[str], *, ask: bool, question: str) -> None:
        database = self._database()
        server_version = self._look(database, names)
        if self._dry:
            self._report.say(f"Would back up into {self.settings.path}")
            self.result.status = Status.DRY_RUN
        elif not self.result.tables and not names:
            self.result.status = Status.NOTHING_TO_BACK_UP
        else:
            self._report.say(f"The backup will go to {self.settings.path}")
            asks = ask and self.settings.mode is Mode.PROMPT and self._report.attended
            if asks and not self._report.ask(question):
                raise DeclinedError("The answer was no.", untouched="Nothing was backed up, nothing was started.")
            self._back_up(database, names, find_clients(database, server_version))

    def _look(self, database: Database, names: Sequence[str]) -> str:
        """Say what is there and at risk; the server's version."""
        settings = self.settings
        with self._report.step("Counting rows"), self._snapshot(database, names) as snapshot:
            self.result.tables, self.result.counts = snapshot.tables, snapshot.counts
        for schema in snapshot.missing_schemas:
            self._report.warn(f"The schema {schema} of backup.schemas does not exist in {database.name}.")
        server_version = snapshot.server_version
        tables, counts = self.result.tables, self.result.counts
        if not tables:
            schemas = "any schema" if settings.schemas == "*" else f"the schemas {', '.join(settings.schemas)}"
            self._report.warn(f"{database} has no table that begins with {settings.prefix!r} in {schemas}.")
            return server_version
        rows = sum(count.rows for count in counts.values())
        self._report.say(f"{database} (PostgreSQL {server_version.split()[0]}) has {plural(len(tables), 'CDC table')}")
        self._report.say(f"with {plural(rows, 'row')} that a migration could destroy:")
        self._report.table(
            ("table", "#rows", "#size"),
            [(str(t), f"{counts[t.oid].rows:,}", size(counts[t.oid].bytes)) for t in tables if t.oid in counts],
        )
        return server_version

    def _snapshot(self, database: Database, names: Sequence[str]) -> AbstractContextManager[Snapshot]:
        settings = self.settings
        return take_snapshot(
            database,
            prefix=settings.prefix,
            schemas=settings.schemas,
            names=names,
            lock_timeout=settings.lock_timeout,
        )

    def _back_up(self, database: Database, names: Sequence[str], clients: Clients) -> None:
        settings, expected = self.settings, sum(count.bytes for count in self.result.counts.values())
        try:
            with (
                new_session(settings.path) as partial,
                self._snapshot(database, names) as snapshot,
                self._report.step("Backing up", 2 * expected, lambda: folder_size(partial)),
            ):
                self.result.tables, self.result.counts = snapshot.tables, snapshot.counts
                session = write_session(
                    snapshot, database=database, clients=clients, partial=partial, jobs=settings.jobs
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
        for skipped in session.manifest.skipped:
            name = skipped.name if skipped.schema_name is None else f"{skipped.schema_name}.{skipped.name}"
            self._report.say(f"  skipped, no file: {name}: {skipped.reason}")

    def _migrate(self, commands: Sequence[MigrationCommand]) -> str:
        """Run the commands; why one of them did not do its work, or nothing."""
        for command in commands:
            self._report.say(f"Running: {command}", "bold")
            before = self._digest() if command.is_drizzle else ""
            attended = command.run(os.environ, stdout_to_stderr=self._report.as_json)
            self.result.ran.append(Ran(argv=command.shown, exit_code=attended.returncode))
            failure = self._why_not_done(command, attended, before)
            if failure:
                return failure
        return ""

    def _why_not_done(self, command: MigrationCommand, attended: Attended, before: str) -> str:
        if command.is_drizzle:
            judgement = judge_drizzle(
                command.argv, attended.output, attended.returncode, catalog_changed=self._digest() != before
            )
            self._report.say(judgement.sentence)
            return "" if judgement.outcome in (Outcome.APPLIED, Outcome.NOTHING_TO_DO) else judgement.sentence
        return f"{command} ended with exit code {attended.returncode}." if attended.returncode else ""

    def _digest(self) -> str:
        with self._database().connect() as connection:
            return digest_catalog(connection)

    def _conclude(self, failure: str) -> None:
        """Say what became of each table, and end with the exit code that this deserves."""
        verdict = self.result.verdict or ()
        if verdict:
            self._report.say("What the migration did to the CDC tables, by the catalog:")
            self._report.table(
                ("table", "change", "#rows before", "#rows after", ""),
                [
                    (
                        f"{v.schema}.{v.name}",
                        v.change,
                        f"{v.rows_before:,}",
                        "-" if v.rows_after is None else f"{v.rows_after:,}",
                        v.detail,
                    )
                    for v in verdict
                ],
            )
        lost = [v for v in verdict if v.is_loss]
        if lost:
            session = self.result.session
            raise DestroyedError(
                f"The migration destroyed CDC data: {', '.join(f'{v.schema}.{v.name} ({v.change})' for v in lost)}.",
                untouched=failure and f"It also failed: {failure}",
                remedy=f"This brings it back:\n  psql -d {self._database().name} -f {session.path / RESTORE_SCRIPT}"
                if session
                else "There is no backup of it: --without-backup was given.",
            )
        if failure:
            raise MigrationError(failure, untouched="The CDC tables are as they were.")
        self.result.status = Status.MIGRATED
        self._report.say("The migration is done, and the CDC tables are as they were.", "bold green")

    def _disabled(self) -> str:
        return f"Backups are switched off (backup.enabled: false in {self.settings.source})."


def _row(listed: Listed) -> tuple[str, ...]:
    manifest = listed.manifest
    described = (
        (manifest.database, str(len(manifest.tables)), f"{sum(t.rows for t in manifest.tables):,}")
        if manifest
        else ("?", "?", "?")
    )
    return listed.path.name, *described, size(listed.bytes), f"no: {listed.problem}" if listed.problem else "yes"
