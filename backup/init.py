"""The first steps in a project: its configuration, its package.json's scripts, its .gitignore."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from backup.errors import DeclinedError, ProcessError, UsageError
from backup.package_json import add_scripts, read_scripts
from backup.process import run
from backup.report import Report
from backup.result import Changed, ChangeState, Result, Status
from backup.settings import Settings

_SCRIPTS = {
    f"migration:{recipe}": f"cdc-backup {recipe}" for recipe in ("backup", "pre", "push-safe", "full-safe", "restore")
}
_PATH = '  path: "../local/backups/drizzle/cdc"'
"""The line of the shipped configuration that depends on where the file stands."""


@dataclass(frozen=True, kw_only=True)
class _Edit:
    """A change that may be made: the whole text after it, and before it (None: no file); and how to show it."""

    file: Path
    before: str | None
    after: str
    shown: str


def initialise(settings: Settings, *, ask: bool, look_only: bool, report: Report, result: Result) -> None:
    """Show each change that the project needs, ask for it, make it; a second time there is none.

    Args:
        settings: what is configured by now; their `directory` is the project's folder.
        ask: ask before each change; without a terminal nobody is asked, and none is made.
        look_only: make none, and do not ask.
        report: whom to tell and to ask.
        result: gets `init`.

    Raises:
        DeclinedError: a change was not made, because somebody said no or nobody could be asked.
        UsageError: a file could not be written, or package.json is not understood.
    """
    done = result.init = []
    for step in _steps(settings):
        if isinstance(step, Changed):
            report.say(f"{step.file}: {step.detail}", "" if step.state is ChangeState.THERE else "bold yellow")
            done.append(step)
            continue
        report.say(f"{step.file}: {'add' if step.before is not None else 'a new file'}", "bold")
        for line in step.shown.splitlines():
            report.say(f"  + {line}")
        state = _decide(ask=ask, look_only=look_only, report=report)
        if state is ChangeState.MADE:
            _write(step)
        done.append(Changed(file=step.file, state=state, detail=step.shown))
    if look_only:
        result.status = Status.DRY_RUN
        return
    unmade = [changed.file for changed in done if changed.state in (ChangeState.DECLINED, ChangeState.PROPOSED)]
    if unmade:
        nobody = any(changed.state is ChangeState.PROPOSED for changed in done)
        raise DeclinedError(
            "Nobody is here to be asked." if nobody else "The answer was no.",
            untouched=f"Not changed: {', '.join(map(str, unmade))}.",
            remedy="Say --yes to make these changes." if nobody else "",
        )
    unread = [changed.file for changed in done if changed.state is ChangeState.NOT_UNDERSTOOD]
    if unread:
        raise UsageError(
            f"{unread[0]} is not understood, and got no script.",
            untouched="It is as it was; the rest is set up.",
            remedy="Put them into its scripts by hand:\n" + _listed(_SCRIPTS),
        )
    result.status = Status.INITIALISED
    states = {changed.state for changed in done}
    if ChangeState.LEFT_ALONE in states:
        report.warn("All is set up, but for what was left alone.")
    elif ChangeState.MADE in states:
        report.say("All is set up.", "bold green")
    else:
        report.say("All was set up already; nothing was changed.", "bold green")


def _decide(*, ask: bool, look_only: bool, report: Report) -> ChangeState:
    if look_only or (ask and not report.attended):
        return ChangeState.PROPOSED
    return ChangeState.MADE if not ask or report.ask("Make this change?") else ChangeState.DECLINED


def _steps(settings: Settings) -> Iterator[_Edit | Changed]:
    yield _configuration(settings)
    package = settings.directory / "package.json"
    if package.exists():
        yield from _scripts(package)
    yield from _ignored(settings)


def _configuration(settings: Settings) -> _Edit | Changed:
    if settings.source is not None:
        return Changed(file=settings.source, state=ChangeState.THERE, detail="the configuration is there")
    text = files("backup").joinpath("backup.yml").read_text(encoding="utf-8")
    folder = settings.directory / "config"
    # Where the first system of this kind kept it, with audit-tables.yml beside it.
    if (nested := settings.directory / "drizzle" / "config").is_dir():
        folder, text = nested, text.replace(_PATH, _PATH.replace("../", "../../"))
    keys = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return _Edit(file=folder / "backup.yml", before=None, after=text, shown=keys)


def _scripts(package: Path) -> Iterator[_Edit | Changed]:
    try:
        before = _read(package)
        there = read_scripts(before)
        lacking = {name: command for name, command in _SCRIPTS.items() if name not in there}
        after = add_scripts(before, lacking) if lacking else before
    except (OSError, ValueError) as error:
        what = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        why = f"not understood, and left alone: {what}"
        yield Changed(file=package, state=ChangeState.NOT_UNDERSTOOD, detail=why)
        return
    other = [name for name, command in _SCRIPTS.items() if name in there and there[name] != command]
    if lacking:
        yield _Edit(file=package, before=before, after=after, shown=_listed(lacking))
    elif not other:
        yield Changed(file=package, state=ChangeState.THERE, detail="the scripts are there")
    if other:
        why = f"left alone, they say something else than ours: {', '.join(other)}"
        yield Changed(file=package, state=ChangeState.LEFT_ALONE, detail=why)


def _listed(scripts: Mapping[str, str]) -> str:
    return "\n".join(f'"{name}": "{command}"' for name, command in scripts.items())


def _ignored(settings: Settings) -> Iterator[_Edit | Changed]:
    """Rows of production must not land in git."""
    root = settings.directory
    folders = [folder for folder in (root, *root.parents) if settings.path.is_relative_to(folder)]
    for folder in folders:
        file = folder / ".gitignore"
        if file.exists():
            yield _ignore(file, settings.path)
            return
        if (folder / ".git").exists():
            if not _is_ignored(folder, settings.path):
                why = f"there is none, and {settings.path} is not ignored: do not commit the rows of CDC tables"
                yield Changed(file=file, state=ChangeState.LEFT_ALONE, detail=why)
            return


def _ignore(file: Path, path: Path) -> _Edit | Changed:
    relative = path.relative_to(file.parent).as_posix()
    entry = "/" + re.sub(r"([\\*?\[ ])", r"\\\1", relative) + "/"
    try:
        before = _read(file)
    except (OSError, ValueError) as error:
        return Changed(file=file, state=ChangeState.LEFT_ALONE, detail=f"left alone, it cannot be read: {error}")
    if entry in before.splitlines() or _is_ignored(file.parent, path):
        return Changed(file=file, state=ChangeState.THERE, detail="the sessions' folder is ignored")
    newline = "\r\n" if "\r\n" in before else "\n"
    start = newline if before and not before.endswith("\n") else ""
    return _Edit(file=file, before=before, after=f"{before}{start}{entry}{newline}", shown=entry)


def _is_ignored(folder: Path, path: Path) -> bool:
    """Whether git says so; without git, or without a repository, nobody does."""
    try:
        run(("git", "check-ignore", "--quiet", f"{path}/backup"), environment=os.environ, cwd=folder)
    except ProcessError:
        return False
    return True


def _read(file: Path) -> str:
    return file.read_bytes().decode()


def _write(edit: _Edit) -> None:
    """Replace the file as a whole, unless it is another by now than the one that was shown."""
    target = edit.file.resolve()
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if (_read(target) if target.exists() else None) != edit.before:
            raise UsageError(
                f"{edit.file} was changed by somebody else in the meantime.",
                untouched="It is as they left it.",
                remedy="Run this again.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(edit.after.encode())
        if edit.before is not None:
            shutil.copymode(target, aside)
        aside.replace(target)
    except OSError as error:
        raise UsageError(f"{edit.file} cannot be written: {error.strerror}.", untouched="It is as it was.") from error
    finally:
        with suppress(OSError):
            aside.unlink()
