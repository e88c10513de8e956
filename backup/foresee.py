"""The rehearsal as part of a run: whether there is one, what it showed in words, and what ends the run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus

from backup.errors import BackupError, MigrationError, UsageError
from backup.migration.command import MigrationCommand, without_passwords
from backup.migration.redirect import Tool, goes_by_pg, leads_by_pg, tool_of
from backup.migration.rehearsal import Forecast, Stage, nothing_known, rehearse
from backup.migration.verdict import Change, Verdict, judge
from backup.postgres.database import Database
from backup.report import Report, plural, visible
from backup.result import Result
from backup.session.sidecar import Verdict as Record
from backup.settings import Rehearse

_LINES_SHOWN = 40
_GO_ON = "--no-rehearse runs it without a rehearsal."


def foresee(
    commands: Sequence[MigrationCommand],
    stage: Stage,
    how: Rehearse,
    *,
    report: Report,
    result: Result,
) -> Forecast | None:
    """Rehearse what is to be run, and say what it would do to the CDC tables.

    Raises:
        MigrationError: the command does not do its work on the scratch database.
        BackupError: it reached the real database, or there is no forecast although `how` is `on`.
    """
    if how is Rehearse.OFF:
        return None
    command = commands[-1]
    if reason := _not_tried(commands, how):
        forecast = nothing_known(command, stage.tables, stage.counts, reason)
    else:
        with report.step(f"Rehearsing {command} on a scratch database"):
            forecast = rehearse(command, stage)
    result.forecast = forecast
    _tell(forecast, report)
    if forecast.unknown and how is Rehearse.ON:
        raise BackupError(
            f"There is no forecast of `{command}`: {forecast.unknown}.",
            untouched="The migration was not started.",
            remedy=_GO_ON,
        )
    if forecast.failure:
        said = forecast.output
        if secret := stage.database.parameters.get("password"):
            for form in {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}:
                said = said.replace(form, "***")
        report.say("\n".join(without_passwords(said).rstrip().split("\n")[-_LINES_SHOWN:]))
        raise MigrationError(
            f"In the rehearsal, {forecast.failure}",
            untouched="The real database was not touched.",
            remedy=f"Correct the migration. {_GO_ON}",
        )
    return forecast


def is_rehearsed(commands: Sequence[MigrationCommand], how: Rehearse) -> bool:
    """Whether there is going to be a rehearsal."""
    return bool(commands) and how is not Rehearse.OFF and not _not_tried(commands, how)


def refuse_elsewhere(command: MigrationCommand, database: Database) -> None:
    """Refuse a psql that nothing leads to the database that is backed up.

    Raises:
        UsageError: it names no database itself, and the `PG*` variables, which it follows, name none or another.
    """
    if goes_by_pg(command.argv) and not leads_by_pg(database):
        raise UsageError(
            f"`{command}` follows the PG* variables, and they do not lead to {database}, which would be backed up.",
            untouched="Nothing was done.",
            remedy="Name the database in the command, or set PGHOST, PGPORT, PGUSER and PGDATABASE.",
        )


def refuse_strike(
    database: Database, commands: Sequence[MigrationCommand], program: str, report: Report, result: Result
) -> None:
    """End the run where rows of the real CDC tables are gone or changed after a rehearsal of theirs.

    Raises:
        BackupError: they are; they are in the session, and what brings them back is in the message.
    """
    verdicts = judge(database, result.tables, result.counts, {}, horizon=result.horizon)
    struck = [v for v in verdicts if v.is_loss]
    if not struck or result.session is None:
        return
    names = {f"{v.schema}.{v.name}": v.change.value for v in struck}
    Record(moment=datetime.now(UTC), command=f"rehearsal of {commands[-1]}", destroyed=names).write(result.session.path)
    report.table(("table", "change", ""), [(f"{v.schema}.{v.name}", v.change, v.detail) for v in struck])
    raise BackupError(
        f"Since the backup, and while `{commands[-1]}` was rehearsed, CDC tables of the real database {database} were "
        f"struck: {', '.join(names)}. Either the command reached for it, or somebody else did that.",
        untouched="The migration was not started. Everything is in the session.",
        remedy=f"{program}restore --session {result.session.name} brings it back. {_GO_ON}",
    )


def _not_tried(commands: Sequence[MigrationCommand], how: Rehearse) -> str:
    if len(commands) > 1:
        return f"`{commands[0]}` comes before it, and what that does to a database is not known"
    if how is Rehearse.AUTO and tool_of(commands[0].argv) is Tool.OTHER:
        return "what else this command does is not known, and a rehearsal runs it twice; --rehearse allows that"
    return ""


def _tell(forecast: Forecast, report: Report) -> None:
    if forecast.unknown:
        report.warn(f"Not rehearsed: {forecast.unknown}. All CDC tables count as at risk.")
        return
    report.say(f"Rehearsed in {forecast.seconds:.1f} s on {forecast.place}:")
    if forecast.losses:
        report.warn(f"  {sentence(forecast)}")
    for fault in forecast.faults:
        report.warn(f"  {fault.sentence}")
    for verdict in forecast.at_risk:
        report.warn(f"  At risk: {_name(verdict)}, because {verdict.detail}.")
    if forecast.safe:
        report.say(f"  Safe, untouched there: {', '.join(map(_name, forecast.safe))}.", "green")
    for limit in forecast.limits:
        report.say(f"  Note: it was {limit}.")


def sentence(forecast: Forecast) -> str:
    """What the command will destroy: `push` will drop `a` (2 rows) and empty `b` (10 rows) through the cascade …."""
    parts, last = [], ""
    for verdict in forecast.losses:
        verb, rest = _said(verdict)
        source = forecast.through.get((verdict.schema, verdict.name))
        through = f" through the cascade from `{_shown(*source)}`" if source else ""
        parts.append(f"{'' if verb == last else f'{verb} '}{rest}{through}")
        last = verb
    listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"`{forecast.command}` will {listed}."


def _said(verdict: Verdict) -> tuple[str, str]:
    """What happens to a table, as a verb and the rest."""
    name, rows = f"`{_name(verdict)}`", plural(verdict.rows_before, "row")
    match verdict.change:
        case Change.DROPPED:
            return "drop", f"{name} ({rows})"
        case Change.EMPTIED:
            return "empty", f"{name} ({rows})"
        case Change.ROWS_LOST:
            return "delete", f"{verdict.rows_before - (verdict.rows_after or 0):,} of {rows} of {name}"
        case Change.ROWS_CHANGED:
            return "change rows of", f"{name} ({verdict.detail})"
        case Change.REPLACED:
            return "replace", f"{name} ({rows}) by another table"
        case Change.COLUMNS_LOST:
            return "take columns of", f"{name} ({verdict.detail})"
        case Change.RENAMED:
            return "rename", f"{name} ({verdict.detail})"
        case _:
            return "leave", f"{name} {verdict.change} ({verdict.detail or rows})"


def _name(verdict: Verdict) -> str:
    return _shown(verdict.schema, verdict.name)


def _shown(schema: str, name: str) -> str:
    return visible(name if schema == "public" else f"{schema}.{name}")
