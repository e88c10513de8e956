"""The doctor's round: every look in its order, told line by line, and the exit code that they deserve."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from backup.doctor.container import look_at_container, look_at_room_inside
from backup.doctor.drizzle import look_at_drizzle
from backup.doctor.project import look_at_configuration, look_at_folder
from backup.doctor.server import Looked, look_at_server
from backup.errors import BackupError, CDCBackupError, ExitCode, UsageError
from backup.reach import Reach
from backup.report import Report
from backup.result import Finding, Health, Result, Status
from backup.settings import Settings

_MARGIN = 24
"""Where what was found begins, behind `missing  configuration`."""


def diagnose(
    settings: Settings,
    reach: Reach,
    *,
    named: Sequence[str],
    program: str,
    report: Report,
    result: Result,
) -> None:
    """Say what was found, line by line; nothing is written, and tables are locked as by any counting.

    Args:
        settings: what the project wants.
        reach: how a backup would reach the database.
        named: the arguments that the settings come from: `--config FILE`, `--path DIR`.
        program: what stands before a recipe's name in an advice.
        report: whom to tell.
        result: gets `doctor`.

    Raises:
        UsageError: the configuration, or who names the database, keeps a backup from working.
        BackupError: something else does.
    """
    found = result.doctor = []
    looks = _looks(settings, reach, named, program)
    while True:
        with report.step("Looking"):
            finding = next(looks, None)
        if finding is None:
            break
        found.append(finding)
        _tell(finding, report)
    missing = [finding for finding in found if finding.health is Health.MISSING]
    if missing:
        error = UsageError if any(finding.exit_code is ExitCode.USAGE for finding in missing) else BackupError
        raise error(
            f"Not ready for a backup: {', '.join(finding.check for finding in missing)}.",
            untouched="Nothing was changed.",
            remedy="Do what the arrows say, and run this again.",
        )
    result.status = Status.EXAMINED
    report.say("A backup would work.", "bold green")


def _looks(settings: Settings, reach: Reach, named: Sequence[str], program: str) -> Iterator[Finding]:
    yield look_at_configuration(settings, named, program)
    database, looked = None, Looked()
    try:
        database = reach.database
    except CDCBackupError as error:
        yield Finding(
            check="database",
            health=Health.MISSING,
            detail=error.what,
            remedy=error.remedy,
            exit_code=error.exit_code,
        )
    else:
        yield from look_at_container(reach)
        looked = yield from look_at_server(database, settings, reach)
    yield from look_at_folder(settings, looked.texts)
    if database is not None:
        yield from look_at_room_inside(database, looked.clients, looked.texts)
    yield from look_at_drizzle(settings, database)


def _tell(finding: Finding, report: Report) -> None:
    first, *more = finding.detail.split("\n")
    line = f"{finding.health:9}{finding.check:{_MARGIN - 9}}{first}"
    match finding.health:
        case Health.OK:
            report.say(line)
        case Health.WARNING:
            report.warn(line)
        case Health.MISSING:
            report.fail(line)
    # Lines of a file that are advised stand as they are, behind the one arrow.
    advice = [f"{mark} {line}" for line, mark in zip_longest(finding.remedy.splitlines(), "→", fillvalue=" ")]
    for text in (*more, *(advice if finding.remedy else ())):
        report.say(f"{'':{_MARGIN}}{text}")
