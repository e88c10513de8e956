"""The rehearsal as part of a run: whether there is one, what it showed in words, and what ends the run."""

from collections.abc import Sequence

from backup.errors import BackupError, MigrationError
from backup.migration.command import MigrationCommand, without_passwords
from backup.migration.redirect import Tool, tool_of
from backup.migration.rehearsal import Forecast, Stage, nothing_known, rehearse
from backup.migration.verdict import Change, Verdict
from backup.report import Report, plural, visible
from backup.result import Result
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
) -> dict[int, Change]:
    """Rehearse what is to be run, and say what it would do to the CDC tables.

    Returns:
        What was said to become of a table, by its OID; nothing of one that is safe or that nobody knows of.

    Raises:
        MigrationError: the command does not do its work on the scratch database.
        BackupError: it reached the real database, or there is no forecast although `how` is `on`.
    """
    if how is Rehearse.OFF:
        return {}
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
            untouched="The migration was not started, and nothing was backed up.",
            remedy=_GO_ON,
        )
    if forecast.failure:
        secret = stage.database.parameters.get("password") or "\0"
        said = without_passwords(forecast.output.replace(secret, "***")).rstrip().split("\n")
        report.say("\n".join(said[-_LINES_SHOWN:]))
        raise MigrationError(
            f"In the rehearsal, {forecast.failure}",
            untouched="The real database was not touched.",
            remedy=f"Correct the migration. {_GO_ON}",
        )
    return {
        table.oid: verdict.change
        for table, verdict in zip(stage.tables, forecast.verdicts, strict=True)
        if verdict in forecast.losses
    }


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
