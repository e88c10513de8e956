"""The migration itself: run, judged by the catalog, told, with the way back where something is lost."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from backup.errors import BackupError, DatabaseError, DestroyedError, MigrationError
from backup.migration.command import Attended, MigrationCommand
from backup.migration.drizzle import Outcome, judge_drizzle
from backup.migration.verdict import Change, Verdict, judge
from backup.postgres.catalog import digest_catalog
from backup.postgres.database import Database
from backup.report import Report, visible
from backup.result import Ran, Result, Status
from backup.session.sidecar import Verdict as VerdictRecord


def look_at_catalog(database: Database) -> str:
    """What the catalog is like now, to be compared with later."""
    with database.connect() as connection:
        return digest_catalog(connection)


@dataclass(frozen=True, kw_only=True)
class SafeRun:
    """A run of migration commands over the tables of `result`, after their backup.

    `announced` is by OID what a person was told before that would become of a table: that is no loss then.
    `restore` is what a person types to restore, `named` the options that lead to the same configuration.
    """

    database: Database
    announced: Mapping[int, Change]
    time_limit: float | None
    restore: str
    named: tuple[str, ...]
    report: Report
    result: Result

    def run_before(self, command: MigrationCommand) -> None:
        """Run a command that touches no database, before the backup.

        Raises:
            MigrationError: it failed, or did not do its work.
        """
        if failure := self._migrate([command], look_at_catalog(self.database)):
            raise MigrationError(failure, untouched="No migration was started, and nothing was backed up.")

    def run(self, commands: Sequence[MigrationCommand], catalog: str) -> None:
        """Run the commands one after the other, and judge what they did; `catalog` is as it was before.

        Raises:
            MigrationError: a command failed, or did not do its work.
            DestroyedError: CDC data is gone; the message has the command that brings it back.
        """
        try:
            self._keep_verdict(commands, destroyed=None)
        except OSError as error:
            raise BackupError(
                f"Nothing can be written beside the session: {error}.", untouched="The migration was not started."
            ) from error
        failure = self._migrate(commands, catalog)
        verdict = self.result.verdict = judge(self.database, self.result.tables, self.result.counts, self.announced)
        try:
            self._keep_verdict(
                commands, destroyed={f"{v.schema}.{v.name}": v.change.value for v in verdict if v.is_loss}
            )
        except OSError as error:
            self.report.warn(f"The verdict could not be written beside the session: {error}")
        self._conclude(failure)

    def _keep_verdict(self, commands: Sequence[MigrationCommand], destroyed: dict[str, str] | None) -> None:
        """Put beside the session what its migration destroyed; `None` while nobody knows."""
        if self.result.session:
            VerdictRecord(moment=datetime.now(UTC), command="; ".join(map(str, commands)), destroyed=destroyed).write(
                self.result.session.path
            )

    def _migrate(self, commands: Sequence[MigrationCommand], catalog: str) -> str:
        """Run the commands; why one of them did not do its work, or nothing. `catalog` is the digest before."""
        for command in commands:
            self.report.say(f"Running: {command}", "bold")
            try:
                attended = command.run(os.environ, stdout_to_stderr=self.report.as_json, time_limit=self.time_limit)
            except MigrationError as error:
                return error.what
            self.result.ran.append(Ran(argv=command.shown, exit_code=attended.returncode))
            failure = self._why_not_done(command, attended, catalog)
            if failure:
                return failure
        return ""

    def _why_not_done(self, command: MigrationCommand, attended: Attended, before: str) -> str:
        if attended.expired:
            return f"{command} was ended after {self.time_limit:g} s (backup.time_limit)."
        if command.is_drizzle:
            try:
                changed = look_at_catalog(self.database) != before
            except DatabaseError as error:
                return f"{command} ended with exit code {attended.returncode}, and then: {error.what}"
            judgement = judge_drizzle(command.argv, attended.output, attended.returncode, catalog_changed=changed)
            self.report.say(judgement.sentence)
            return "" if judgement.outcome in (Outcome.APPLIED, Outcome.NOTHING_TO_DO) else judgement.sentence
        return f"{command} ended with exit code {attended.returncode}." if attended.returncode else ""

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
        lost = [v for v in verdict if v.is_loss and not v.announced]
        if lost:
            names = ", ".join(f"{visible(f'{v.schema}.{v.name}')} ({v.change})" for v in lost)
            raise DestroyedError(
                f"The migration destroyed CDC data: {names}.",
                untouched=failure and f"It also failed: {failure}",
                remedy=self._ways_back(lost),
            )
        if failure:
            raise MigrationError(failure, untouched="The CDC tables are as they were.")
        self.result.status = Status.MIGRATED
        self.report.say(
            "The migration is done; no CDC table, row or column was lost." if verdict else "The migration is done.",
            "bold green",
        )

    def _ways_back(self, lost: Sequence[Verdict]) -> str:
        """The command that brings back what was lost; where one cannot, one for each way, its tables named."""
        session = self.result.session
        if session is None:
            return "There is no backup of it: --without-backup was given."
        renamed = [v for v in lost if v.change is Change.RENAMED]
        changed = [v for v in lost if not v.in_place and v not in renamed]
        gone = [v for v in lost if v.in_place]

        def restore(verdicts: Sequence[Verdict], *options: str) -> str:
            words = [*options, *self.named]
            for v in verdicts if len(verdicts) < len(lost) else ():
                words += ["--table", f"{v.schema}.{v.name}"]
            return f"\n  {self.restore} {shlex.join(['--session', session.name, *words])}"

        ways = [f"This brings it back:{restore(gone)}"] if gone else []
        if changed:
            ways.append(f"This brings it back beside what is there, to compare:{restore(changed, '--mode', 'aside')}")
        if renamed:
            ways.append("What was renamed is whole: ALTER TABLE … RENAME TO … gives it back its name.")
        return "\n".join(ways)
