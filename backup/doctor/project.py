"""What lies on this machine: the configuration and where its values come from, the sessions' folder."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from backup.errors import ExitCode
from backup.migration.command import MigrationCommand
from backup.report import size
from backup.result import Finding, Health
from backup.settings import Settings
from backup.yaml_file import read_yaml

_A_FILE = 20_000
"""Bytes of a table's file around its rows, or more."""
_LEAST, MOST = 0.9, 1.3
"""How far from the estimate of the rows' text it may be."""


def look_at_configuration(settings: Settings, named: Sequence[str], program: str) -> Finding:
    """Which file it is, and who gives each value that is not the built-in one."""
    source = settings.source
    if source is None:
        detail = "no config/backup.yml or drizzle/config/backup.yml from here upwards: all values are built in"
        remedy = f"{program}init writes one, with a comment for every key."
        values = [f"path: {settings.path} (--path)"] if "--path" in named else []
    else:
        by = "--config" if "--config" in named else "CDC_BACKUP_CONFIG" if os.environ.get("CDC_BACKUP_CONFIG") else ""
        detail, remedy = f"{source}" + (f" (named by {by})" if by else ""), ""
        values = list(_values(settings, source, named))
    if not settings.enabled:
        return Finding(
            check="configuration",
            health=Health.MISSING,
            detail="\n".join([f"{detail} switches backups off", *values]),
            remedy="Set backup.enabled to true.",
            exit_code=ExitCode.USAGE,
        )
    return Finding(check="configuration", health=Health.OK, detail="\n".join([detail, *values]), remedy=remedy)


def look_at_folder(settings: Settings, texts: Sequence[int] | None) -> Iterator[Finding]:
    """Whether sessions can be written, proven, and fit; `texts` are the bytes of each CDC table's rows where known."""
    root = settings.path
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written by this user" if there.is_dir() else "is not a folder"
        yield Finding(
            check="folder",
            health=Health.MISSING,
            detail=f"{root}: {there} {why}",
            remedy="Give yourself the right to write there, or set backup.path to another folder.",
        )
        return
    made = "" if there == root else ", which the first backup makes"
    yield Finding(check="folder", health=Health.OK, detail=f"{root}{made}")
    if texts is not None:
        yield _space(settings, there, [text + _A_FILE for text in texts if text])


def _space(settings: Settings, folder: Path, files: Sequence[int]) -> Finding:
    """Whether the folder has room for a session while it is written, and while it is proven.

    While it is written the rows lie there as pg_dump wrote them, and the largest tables a second time in their files. A
    drill dumps all rows a second time, beside the session, and beside its unpacked files where it is compressed.
    """
    whole, largest = sum(files), sum(sorted(files)[-settings.jobs :])
    least = _LEAST * (2 * whole if settings.drill else whole)
    most = MOST * max(whole + largest, (3 if settings.compress else 2) * whole if settings.drill else 0)
    free = shutil.disk_usage(folder).free
    detail = f"{size(free)} free; a session of about {size(whole)} needs {size(round(least))} to {size(round(most))}"
    detail += " while it is written and proven" if settings.drill else " while it is written"
    if settings.compress:
        detail += f", and a fraction of that afterwards (compress: {settings.compress})"
    if free >= most:
        return Finding(check="space", health=Health.OK, detail=detail)
    return Finding(
        check="space",
        health=Health.MISSING,
        detail=f"{detail}\n{'which is too little' if free < least else 'which may be too little'}",
        remedy="Make room, or set backup.path to a folder on a larger disk.",
    )


def _values(settings: Settings, source: Path, named: Sequence[str]) -> Iterator[str]:
    """The keys that the file gives another value than the built-in one; a folder has none that holds everywhere."""
    document = read_yaml(source)
    section = document["backup"] if isinstance(document, dict) else {}
    for key, field in Settings.model_fields.items():
        value = getattr(settings, key)
        if key == "path" and "--path" in named:
            yield f"path: {value} (--path)"
        elif key in section and value != field.default:
            yield f"{key}: {_shown(key, value, settings)} ({source.name})"
        elif key == "prefix" and value != field.default:
            yield f"prefix: {value} (audit-tables.yml beside it)"


def _shown(key: str, value: object, settings: Settings) -> str:
    match key, value:
        case (("push" | "generate" | "migrate"), tuple()):
            return str(MigrationCommand(argv=value, directory=settings.directory))
        case "scratch", str() if "://" in value:  # a password may stand in it
            return "a URL"
        case _, tuple():
            return ", ".join(value)
        case _:
            return str(value)
