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

_AT_MOST = 4
"""Times the tables' size on the server that a session took while it was written: 1 with numbers, 3.3 with bytea."""


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


def look_at_folder(settings: Settings, total: int | None) -> Iterator[Finding]:
    """Whether sessions can be written, and fit; `total` is the bytes of the CDC tables where that is known."""
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
    if total is None:
        return
    free = shutil.disk_usage(there).free
    enough = free >= _AT_MOST * total
    yield Finding(
        check="space",
        health=Health.OK if enough else Health.WARNING if free >= total else Health.MISSING,
        detail=f"{size(free)} free; a session needs {size(total)} to {size(_AT_MOST * total)} while it is written"
        + (f", and a fraction of that afterwards (compress: {settings.compress})" if settings.compress else "")
        + "\n"
        "(an estimate from the tables' size on the server; values that are compressed there take more)",
        remedy="" if enough else "Make room, or set backup.path to a folder on a larger disk.",
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
