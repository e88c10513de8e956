"""The migration itself: run, judged by the catalog, told, with the way back where something is lost."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from backup.errors import BackupError, CDCBackupError, DatabaseError, DestroyedError, MigrationError
from backup.migration.command import Attended, MigrationCommand
from backup.migration.drizzle import Outcome, judge_drizzle
from backup.migration.faults import Part, find_faults, machinery_before
from backup.migration.rehearsal import Forecast
from backup.migration.verdict import Change, Verdict, judge
from backup.postgres.catalog import digest_catalog
from backup.postgres.database import Database
from backup.postgres.machinery import Machinery
from backup.postgres.scratch import COUNTED_AT_ONCE, count_sessions
from backup.postgres.unfinished import wait_for_unfinished
from backup.profile import step
from backup.report import Report
from backup.result import Ran, Result, Status
from backup.session.sidecar import Verdict as VerdictRecord
from backup.settings import Settings
from backup.stand_guard import stand_guard
from backup.way_back import restores, sentence_of, ways_back

_PATIENCE = 30.0
"""Seconds for what a migration that is over left running on the server, and for tables that others have locked."""


def look_at_catalog(database: Database) -> str:
    """What the catalog is like now, to be compared with later."""
    with database.connect() as connection:
        connection.execute("set lock_timeout = '10s'")  # a migration may have left a lock
        return digest_catalog(connection)


@dataclass(frozen=True, kw_only=True)
class SafeRun:
    """A run of migration commands over the tables of `result`, after their backup.

    `agreed` is the forecast that a person agreed to: what goes as it said is no loss. `ask` says that this person may
    be asked again, when it happens (`on_destroy: ask`).
    `restore` is what a person types to restore, `named` the options that lead to the same configuration. `patience`
    is how many seconds are waited for statements that the migration left running, and for locks.
    """

    database: Database
    settings: Settings
    agreed: Forecast | None
    ask: bool
    restore: str
    named: tuple[str, ...]
    report: Report
    result: Result
    patience: float = _PATIENCE

    def run_before(self, command: MigrationCommand) -> None:
        """Run a command that touches no database, before the backup.

        Raises:
            MigrationError: it failed, or did not do its work.
        """
        if failure := self._migrate([command], look_at_catalog(self.database)):
            raise MigrationError(failure, untouched="No migration was started, and nothing was backed up.")
        self.result.ran.clear()  # it was no migration

    def run(self, commands: Sequence[MigrationCommand], catalog: str) -> None:
        """Run the commands one after the other, and judge what they did; `catalog` is as it was before, if known.

        Raises:
            MigrationError: a command failed, or did not do its work.
            DestroyedError: CDC data is gone; the message has the command that brings it back.
        """
        result, announced = self.result, self._announced()
        try:
            machinery = machinery_before(self.database, result.tables)
            self._keep_verdict(VerdictRecord(moment=datetime.now(UTC), command=_shown(commands), destroyed=None))
        except DatabaseError as error:
            error.untouched = f"{error.untouched} The migration was not started.".strip()
            raise
        except OSError as error:
            raise BackupError(
                f"Nothing can be written beside the session: {error}.", untouched="The migration was not started."
            ) from error
        changes = {oid: told.change for oid, told in announced.items()}
        with ExitStack() as held:
            try:
                held.enter_context(
                    stand_guard(self.database, self.settings, changes, result, self.report, ask=self.ask)
                )
            except CDCBackupError:
                if result.session:  # nothing was started that anybody could want to know of
                    VerdictRecord.beside(result.session.path).unlink(missing_ok=True)
                raise
            sessions, ours = self._count_sessions(), len(self.database.pids)
            failure = self._migrate(commands, catalog)
            ours = len(self.database.pids) - ours + 1  # the next look is one, and what comes meanwhile is not counted
            if sessions is not None and (now := self._count_sessions()) is not None:
                result.reached = now - sessions > ours
            unfinished = self._wait(machinery)
        with step("Judging"):
            verdict = result.verdict = judge(
                self.database,
                result.tables,
                result.counts,
                announced,
                allowed=result.allowed,
                safe=self._safe(),
                horizon=result.horizon,
                fingerprints=self._fingerprints(),
                gaps=result.gaps,
                taken=result.taken,
                unfinished=unfinished,
                lock_timeout=1 if unfinished else self.patience,
            )
            faults = find_faults(self.database, machinery, result.tables, verdict) if verdict else ()
            # Through a pooler somebody comes by a connection that is old.
            if result.strikes or any(v.change is not Change.UNTOUCHED or v.rows_added for v in verdict):
                result.reached = True
            elif result.reached is False:
                with suppress(DatabaseError):
                    result.reached = not catalog or look_at_catalog(self.database) != catalog
        told = {fault.sentence for fault in self.agreed.faults} if self.agreed else set()
        result.faults = tuple(replace(f, is_loss=False) if f.sentence in told else f for f in faults)
        losses = [v for v in verdict if v.is_loss]
        try:
            self._keep_verdict(
                VerdictRecord(
                    moment=datetime.now(UTC),
                    command=_shown(commands),
                    destroyed={f"{v.schema}.{v.name}": v.change.value for v in losses},
                    announced=tuple(f"{v.schema}.{v.name}" for v in losses if v.announced),
                    machinery=tuple(
                        f"{fault.sentence}\n{fault.way_back}".strip() for fault in result.faults if fault.is_loss
                    ),
                    sentence=sentence_of(verdict, result.faults),
                )
            )
        except OSError as error:
            self.report.warn(f"The verdict could not be written beside the session: {error}")
        self._conclude(failure)

    def _count_sessions(self) -> int | None:
        """How many sessions the database has had; None where the server does not tell at once."""
        try:
            with self.database.connect() as connection:
                return count_sessions(connection) if connection.info.server_version >= COUNTED_AT_ONCE else None
        except DatabaseError:
            return None  # the verdict will say so

    def _announced(self) -> dict[int, Verdict]:
        """What a person agreed to that it becomes of tables, by OID."""
        told = {(v.schema, v.name): v for v in self.agreed.losses} if self.agreed else {}
        return {t.oid: told[t.schema, t.name] for t in self.result.tables if (t.schema, t.name) in told}

    def _safe(self) -> frozenset[int]:
        """The tables that this migration leaves as they are, whatever rows there are: its rehearsal had them all."""
        forecast = self.result.forecast
        safe = {(v.schema, v.name) for v in forecast.safe} if forecast and forecast.whole else set()
        return frozenset(table.oid for table in self.result.tables if (table.schema, table.name) in safe)

    def _fingerprints(self) -> dict[int, str]:
        """What the drill saw of each table, by OID."""
        seen = {(t.schema_name, t.name): t.fingerprint for t in self.result.drill.tables} if self.result.drill else {}
        return {t.oid: seen[t.schema, t.name] for t in self.result.tables if (t.schema, t.name) in seen}

    def _keep_verdict(self, record: VerdictRecord) -> None:
        """Put beside the session what its migration destroyed."""
        if self.result.session:
            record.write(self.result.session.path)

    def _wait(self, machinery: Machinery) -> str:
        """Wait for what the migration left running on the server; what of it is running even so."""
        oids = [table.oid for table in self.result.tables]
        try:
            with self.database.connect() as connection:
                still = wait_for_unfinished(
                    connection, oids, machinery.moment, limit=self.patience, tell=self.report.warn
                )
        except DatabaseError:
            return ""  # the verdict will say so
        for running in still:
            self.report.fail(f"After {self.patience:g} s still not over on the server: {running}")
        return "; ".join(map(str, still))

    def _migrate(self, commands: Sequence[MigrationCommand], catalog: str) -> str:
        """Run the commands; why one of them did not do its work, or nothing. `catalog` is the digest before."""
        for command in commands:
            self.report.say(f"Running: {command}", "bold")
            try:
                with step(f"Running {command}"):
                    attended = command.run(
                        os.environ, stdout_to_stderr=self.report.as_json, time_limit=self.settings.time_limit
                    )
            except MigrationError as error:
                return error.what
            self.result.ran.append(Ran(argv=command.shown, exit_code=attended.returncode))
            failure = self._why_not_done(command, attended, catalog)
            if failure:
                return failure
        return ""

    def _why_not_done(self, command: MigrationCommand, attended: Attended, before: str) -> str:
        if attended.expired:
            return f"{command} was ended after {self.settings.time_limit:g} s (backup.time_limit)."
        if drizzle := command.drizzle:
            try:
                changed = look_at_catalog(self.database) != before
            except DatabaseError as error:
                return f"{command} ended with exit code {attended.returncode}, and then: {error.what}"
            judgement = judge_drizzle(drizzle, attended.output, attended.returncode, catalog_changed=changed)
            self.report.say(judgement.sentence)
            return "" if judgement.outcome in (Outcome.APPLIED, Outcome.NOTHING_TO_DO) else judgement.sentence
        return command.why_failed(attended.output, attended.returncode)

    def _conclude(self, failure: str) -> None:
        """Say what became of each table, and end with the exit code that this deserves."""
        verdict = self.result.verdict or ()
        if verdict:
            self.report.say("What the migration did to the CDC tables, by the catalog:")
            self.report.table(
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
        for fault in self.result.faults:
            say = self.report.fail if fault.part is Part.WRITES_FAIL else self.report.warn
            (say if fault.is_loss else self.report.say)(fault.sentence)
        struck = {(v.schema, v.name) for v in self.result.forecast.losses} if self.result.forecast else set()
        foreseen = [v for v in verdict if (v.schema, v.name) in struck]
        spared = [v for v in foreseen if v.change is Change.UNTOUCHED]
        for v in spared:
            self.report.warn(f"{v.schema}.{v.name} was to be struck, and was not: did the command reach this database?")
        if spared == foreseen != [] and not failure:
            failure = f"In the rehearsal it struck CDC tables of {self.database}, and now none: it did something else."
        if not failure and any(strike.refused for strike in self.result.strikes or ()):
            failure = (
                "The guard cancelled a statement of it, and it went on: what came before and after that may be done."
            )
        lost = [v for v in verdict if v.is_loss and not v.announced]
        faults = [fault for fault in self.result.faults if fault.is_loss]
        sentence = sentence_of(verdict, faults)
        if lost or faults:
            raise DestroyedError(
                sentence,
                untouched=failure and f"It also failed: {failure}",
                remedy=ways_back(
                    verdict,
                    faults,
                    self.result.session,
                    restore=self.restore,
                    named=self.named,
                    unguarded=self.result.unguarded.keys(),
                ),
            )
        if failure:
            changed = any(v.is_loss for v in verdict)
            raise MigrationError(failure, untouched=sentence if changed else "The CDC tables are as they were.")
        self.result.status = Status.MIGRATED
        self.report.say(f"The migration is done. {sentence}".strip(), "bold green")
        if self.result.reached is False:
            self.report.warn(
                f"No connection to {self.database} was made meanwhile. Unless the command came through a pooler, it did"
                " nothing here: it may have reached another database, whose tables are neither backed up nor guarded."
            )
        gone = [v for v in verdict if v.announced]
        if session := self.result.session:
            ways = "\n".join(restores(gone, session, restore=self.restore, named=self.named))
            if ways:
                self.report.say(f"If that was not meant, {ways[0].lower()}{ways[1:]}")


def _shown(commands: Sequence[MigrationCommand]) -> str:
    return "; ".join(map(str, commands))
