"""The recipes, `migration.backup` and its like: thin, for a `tasks.py` and for the console script.

What they run is imported when one of them runs: `--list` and `--help` are there at once, and a Ctrl-C meanwhile is
answered like any other.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.program import Program
from invoke.tasks import Task

from backup.errors import CDCBackupError, ExitCode, InterruptedRunError, UsageError
from backup.streams import open_closed_streams

if TYPE_CHECKING:
    from backup.cdc_backup import CDCBackup
    from backup.migration.command import MigrationCommand
    from backup.profile import Profile
    from backup.report import Report
    from backup.result import Result
    from backup.settings import Rehearse

_HELP = {
    "config": "The configuration file; config/backup.yml is looked for from here upwards otherwise.",
    "profile": "Show at the end where the seconds went.",
    "json": "One JSON object on stdout; everything for people goes to stderr.",
    "yes": "Do not ask.",
    "path": "The folder of the sessions, instead of the configured one.",
    "table": "Only this table (a name, or schema.name); may be given several times.",
    "session": "The session's name or path; the newest complete one otherwise.",
    "mode": "missing adds what is missing; replace makes the tables what the backup holds; aside restores elsewhere.",
    "dry_run": "Only say what would be done.",
    "even_renamed": "Bring a table back although it is there under another name.",
    "rehearse": "Try the command on a scratch database first, whatever it is; without a forecast nothing is run.",
    "no_rehearse": "Do not try the command on a scratch database first.",
    "without_delta": "Leave out the rows that were saved after the backup, when the migration took the tables.",
    "without_backup": "Migrate with backups switched off, and with nothing to restore from.",
}

_TAKING_A_VALUE = ("--path", "--table", "--config")
"""The flags of `backup` that a plain word may belong to."""


@contextmanager
def _safely(
    context: Context, config: str | None, json: bool, path: str | None = None, *, dry: bool = False, profile: bool
) -> Iterator[CDCBackup]:
    """A recipe's body: the one place where errors become exits, in words and as JSON."""
    report: Report | None = None
    result: Result | None = None
    kept: Profile | None = None
    open_closed_streams()
    try:
        with _ended_like_interrupted():
            with _nothing_collected():
                from backup.cdc_backup import CDCBackup
                from backup.profile import Profile
                from backup.report import Report

            kept = Profile() if profile else None
            report = Report(as_json=json)
            dry = dry or bool(context.config.run.dry)
            cdc = CDCBackup(path, config=config, report=report, dry=dry, program=_program())
            result = cdc.result
            yield cdc
    except KeyboardInterrupt:
        _end(json, report, result, InterruptedRunError(_what_interrupted_leaves(result)), kept)
    except CDCBackupError as error:
        _end(json, report, result, error, kept)
    _show_profile(report, result, kept)
    report.emit(result.as_json(ExitCode.DONE, ""))


def _end(
    json: bool, report: Report | None, result: Result | None, error: CDCBackupError, profile: Profile | None = None
) -> NoReturn:
    from backup.report import Report
    from backup.result import Result, Status

    failures = {
        ExitCode.DECLINED: Status.DECLINED,
        ExitCode.DESTROYED: Status.DESTROYED,
        ExitCode.INTERRUPTED: Status.INTERRUPTED,
    }
    report, result = report or Report(as_json=json), result or Result()
    result.status = failures.get(error.exit_code, Status.FAILED)
    report.fail(str(error))
    _show_profile(report, result, profile)
    report.emit(result.as_json(error.exit_code, str(error)))
    raise Exit(code=error.exit_code)


def _show_profile(report: Report, result: Result, profile: Profile | None) -> None:
    if profile:
        result.profile = profile.end()
        report.profile(result.profile)


def _what_interrupted_leaves(result: Result | None) -> str:
    if result is None:
        return "Interrupted before anything was done."
    if result.ran:
        return "Interrupted after the migration had been started: look what it did before you go on."
    if result.plan is not None:
        return "Interrupted. A restore is one transaction, all or nothing: restore --dry-run says whether it is done."
    if result.session:
        kept = f"The session {result.session.path} is complete"
        return f"Interrupted. {kept}; no migration was started. {result.left}".strip()
    return (
        "Interrupted. No session was published, no migration was started; the database was only read. " + result.left
    ).strip()


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP clean up as Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in signals:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage collection while modules are imported, nor of them later: each would look through all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _program() -> str:
    """What a person types before a recipe's name."""
    return "cdc-backup " if Path(sys.argv[0]).stem == "cdc-backup" else "invoke migration."


def _arguments() -> tuple[str, ...]:
    """What stands after `--`, word by word: Invoke itself joins it with blanks and loses the quoting."""
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()


def backup(
    context: Context,
    path: str | None = None,
    table: Sequence[str] | None = None,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
) -> None:
    """Back up every CDC table, or the named ones, into a new session."""
    with _safely(context, config, json, path, profile=profile) as cdc:
        cdc.run_backup(table or (), interactive=False)


def pre(
    context: Context,
    path: str | None = None,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
    yes: bool = False,
    rehearse: bool = False,
    no_rehearse: bool = False,
) -> None:
    """Look what is there, back up, rehearse drizzle-kit push, say what is at risk, ask."""
    with _safely(context, config, json, path, profile=profile) as cdc:
        cdc.prepare([_push(cdc)], ask=not yes, rehearse=_how(rehearse, no_rehearse))


def rehearse(context: Context, config: str | None = None, json: bool = False, profile: bool = False) -> None:
    """Run drizzle-kit push, or the command that follows --, on a copy of the database; say what it would destroy."""
    with _safely(context, config, json, profile=profile) as cdc:
        cdc.rehearse(_given() if _arguments() else _push(cdc))


def push_safe(
    context: Context,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
    yes: bool = False,
    without_backup: bool = False,
    rehearse: bool = False,
    no_rehearse: bool = False,
) -> None:
    """Rehearse, back up, run drizzle-kit push (with what follows --), say what it did to the CDC tables."""
    with _safely(context, config, json, profile=profile) as cdc:
        cdc.run_safe(
            [_push(cdc, *_arguments())],
            ask=not yes,
            without_backup=without_backup,
            rehearse=_how(rehearse, no_rehearse),
        )


def full_safe(
    context: Context,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
    yes: bool = False,
    without_backup: bool = False,
    rehearse: bool = False,
    no_rehearse: bool = False,
) -> None:
    """Run drizzle-kit generate (with what follows --), rehearse migrate, back up, migrate, say what that did."""
    with _safely(context, config, json, profile=profile) as cdc:
        from backup.migration.command import MigrationCommand
        from backup.migration.drizzle import is_drizzle

        settings = cdc.settings
        generate = MigrationCommand(argv=(*settings.generate, *_arguments()), directory=settings.directory)
        migrate = MigrationCommand(argv=settings.migrate, directory=settings.directory)
        # drizzle-kit's touches no database; of another command, and of what else a script that calls it does, nobody
        # knows, so that it waits for the backup
        first = is_drizzle(generate.argv)
        cdc.run_safe(
            [migrate] if first else [generate, migrate],
            ask=not yes,
            without_backup=without_backup,
            rehearse=_how(rehearse, no_rehearse),
            before=generate if first else None,
        )


def run_safe(
    context: Context,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
    yes: bool = False,
    without_backup: bool = False,
    rehearse: bool = False,
    no_rehearse: bool = False,
) -> None:
    """Rehearse, back up, run the command that follows --, say what it did to the CDC tables."""
    with _safely(context, config, json, profile=profile) as cdc:
        if not _arguments():
            raise UsageError(
                "No command was given.",
                untouched="Nothing was done.",
                remedy="Write it after two dashes: run-safe -- alembic upgrade head",
            )
        cdc.run_safe([_given()], ask=not yes, without_backup=without_backup, rehearse=_how(rehearse, no_rehearse))


def _given() -> MigrationCommand:
    from backup.migration.command import MigrationCommand

    return MigrationCommand(argv=_arguments(), directory=Path.cwd())


def _push(cdc: CDCBackup, *arguments: str) -> MigrationCommand:
    from backup.migration.command import MigrationCommand

    return MigrationCommand(argv=(*cdc.settings.push, *arguments), directory=cdc.settings.directory)


def _how(rehearse: bool, no_rehearse: bool) -> Rehearse | None:
    from backup.settings import Rehearse

    if rehearse and no_rehearse:
        raise UsageError("--rehearse and --no-rehearse contradict each other.", untouched="Nothing was done.")
    return Rehearse.ON if rehearse else Rehearse.OFF if no_rehearse else None


def restore(
    context: Context,
    session: str | None = None,
    table: Sequence[str] | None = None,
    mode: str = "missing",
    dry_run: bool = False,
    even_renamed: bool = False,
    without_delta: bool = False,
    path: str | None = None,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
    yes: bool = False,
) -> None:
    """Bring back what a session holds: tables that are gone, rows that are missing."""
    with _safely(context, config, json, path, profile=profile) as cdc:
        from backup.session.restore import RestoreMode

        if mode not in set(RestoreMode):
            raise UsageError(f"--mode is {', '.join(RestoreMode)}, not {mode!r}.", untouched="Nothing was restored.")
        cdc.restore(
            session,
            table or (),
            mode=RestoreMode(mode),
            plan_only=dry_run,
            even_renamed=even_renamed,
            without_delta=without_delta,
            ask=not yes,
        )


def drill(
    context: Context,
    session: str | None = None,
    path: str | None = None,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
) -> None:
    """Prove a session: restore it on a scratch database, dump it again, compare."""
    with _safely(context, config, json, path, profile=profile) as cdc:
        cdc.drill(session)


def prune(
    context: Context,
    dry_run: bool = False,
    path: str | None = None,
    config: str | None = None,
    json: bool = False,
    profile: bool = False,
) -> None:
    """Delete the sessions that are old and that nothing keeps; say why the others stay."""
    with _safely(context, config, json, path, dry=dry_run, profile=profile) as cdc:
        cdc.prune()


def list_sessions(
    context: Context, path: str | None = None, config: str | None = None, json: bool = False, profile: bool = False
) -> None:
    """List the sessions, newest first."""
    with _safely(context, config, json, path, profile=profile) as cdc:
        cdc.list_sessions()


def doctor(
    context: Context, path: str | None = None, config: str | None = None, json: bool = False, profile: bool = False
) -> None:
    """Say what a backup needs: what was found, what is missing, what to do about it."""
    with _safely(context, config, json, path, profile=profile) as cdc:
        cdc.doctor()


def init(
    context: Context, config: str | None = None, json: bool = False, profile: bool = False, yes: bool = False
) -> None:
    """Set up a project: configuration, scripts of package.json, .gitignore; show and ask before each change."""
    with _safely(context, config, json, profile=profile) as cdc:
        cdc.init(ask=not yes)


def _recipe(body: Callable[..., None], name: str) -> Task[Callable[..., None]]:
    parameters = body.__annotations__.keys() & _HELP.keys()
    # Invoke prints only the first line of a help text whole, and takes short flags by the first letter free:
    # none, so that a new flag never changes what an old one means.
    return Task(
        body,
        name=name,
        help={parameter: _HELP[parameter] for parameter in parameters},
        iterable=["table"] if "table" in parameters else (),
        auto_shortflags=False,
    )


migration = Collection(
    "migration",
    _recipe(backup, "backup"),
    _recipe(pre, "pre"),
    _recipe(rehearse, "rehearse"),
    _recipe(push_safe, "push-safe"),
    _recipe(full_safe, "full-safe"),
    _recipe(run_safe, "run-safe"),
    _recipe(restore, "restore"),
    _recipe(list_sessions, "list"),
    _recipe(drill, "drill"),
    _recipe(prune, "prune"),
    _recipe(doctor, "doctor"),
    _recipe(init, "init"),
)
"""For a team's own `tasks.py`: `ns = Collection(migration)`."""


class _Program(Program):
    """Invoke's own program, but for a command line not understood (our exit code, our JSON) and for bytecode."""

    def parse_core(self, argv: list[str] | None) -> None:
        forbidden = sys.dont_write_bytecode
        with _understood():
            super().parse_core(argv)
        # Invoke forbids bytecode unless --write-pyc says otherwise: what a recipe imports, which is most, would be
        # compiled anew by every run wherever the installer compiled nothing, as uv does not.
        sys.dont_write_bytecode = sys.dont_write_bytecode and forbidden

    def parse_tasks(self) -> None:
        with _understood():
            super().parse_tasks()
            # Before a recipe's name it is Invoke's own flag: the configuration that it names would not be ours.
            if self.args["config"].value is not None:
                raise ParseError("--config and -f stand before the recipe; write --config behind it.")


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except ParseError as error:
        remedy = "cdc-backup --list names the recipes, cdc-backup RECIPE --help the flags of one."
        _end("--json" in sys.argv, None, None, UsageError(str(error), untouched="Nothing was done.", remedy=remedy))


def main() -> None:
    """The console script `cdc-backup`: the same recipes without a `tasks.py`.

    There `cdc-backup backup PATH` is `cdc-backup backup --path PATH`, for scripts of package.json, which
    append what they are given.
    """
    open_closed_streams()
    argv = list(sys.argv)
    if argv[1:2] == ["backup"]:
        plain = (n for n in range(2, len(argv)) if argv[n][:1] != "-" and argv[n - 1] not in _TAKING_A_VALUE)
        if place := next(plain, None):
            argv.insert(place, "--path")
    _Program(name="cdc-backup", binary="cdc-backup", namespace=migration, version=version("cdc-backup")).run(argv)
