"""A session, brought back by psql from its own files: the same that a person would run by hand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from backup.errors import ProcessError, RestoreError
from backup.postgres.clients import CONNECTION_LOST, Clients, argument
from backup.postgres.database import Database
from backup.postgres.fingerprint import add_fingerprints
from backup.profile import step
from backup.session.delta_parts import Delta, delta_folder, delta_variable
from backup.session.folder import RESTORE_SCRIPT, Session
from backup.session.statements import literal

_LINE = re.compile(r"^cdc: (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)
_OF_DELTA = re.compile(r"^cdc delta: (\d+) (\d+) (\d+)$", re.MULTILINE)
_END = "cdc: committed"
_NAME_TAKEN = re.compile(r'relation ("[^"]+") already exists')
_NO_LABEL = re.compile(r'invalid input value for enum (.+): "(.*)"$', re.MULTILINE)
_LOST = ("server closed", "were cut off")
"""What is said then: by libpq, and of a psql in a container by us."""


class RestoreMode(StrEnum):
    """What becomes of a table that is there: it gets what it lacks, is made what the backup holds, or is left alone."""

    MISSING = "missing"
    REPLACE = "replace"
    ASIDE = "aside"


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did with one table, in rows; `differ` were kept though the backup has them different.

    `newer` rows and `updated` ones of those to bring back were in the delta, and not so in the session.
    """

    added: int
    differ: int
    removed: int
    newer: int = 0
    updated: int = 0


def restore_schema(session: Session) -> str:
    """The schema into which the mode `aside` restores."""
    return f"restored_{session.name.removeprefix('backup_')}"


def restore_session(
    session: Session,
    *,
    files: Path,
    database: Database,
    clients: Clients,
    mode: RestoreMode,
    oids: frozenset[int],
    fingerprints: Mapping[int, str],
    lock_timeout: float = 10.0,
    delta: Delta | None = None,
) -> tuple[dict[int, Restored], str]:
    """Run `restore.sql` for the tables with these OIDs, in one transaction.

    Args:
        session: what to restore.
        files: the folder of `plain_files`.
        database: where to.
        clients: whose psql runs.
        mode: what becomes of a table that is there.
        oids: the tables, by the OIDs that the manifest gives them.
        fingerprints: by OID, what the loaded rows must have.
        lock_timeout: seconds to wait for each lock.
        delta: what was saved after the session, and comes back with it; it must be verified.

    Returns:
        What was done with each table that was touched, by OID, and what psql warned of.

    Raises:
        RestoreError: it failed, and nothing was changed.
    """
    # Set here too: where only the included file sets it, psql ends with 0 after an error in that.
    lines = ["\\set ON_ERROR_STOP on", f"\\set cdc_mode {mode}", "\\set cdc_report on"]
    lines.append(f"\\set cdc_schema {argument(restore_schema(session))}")
    lines.append(f"\\set cdc_lock_timeout {int(lock_timeout * 1000)}")
    for table in session.manifest.tables:
        if table.oid not in oids:
            lines.append(f"\\set cdc_skip_{table.oid} on")
        elif table.oid in fingerprints:
            lines.append(f"\\set cdc_fingerprint_{table.oid} {argument(fingerprints[table.oid])}")
    known = {table.oid for table in session.manifest.tables}
    deltas = [table for table in (delta.tables if delta else ()) if table.oid in oids & known]
    for taken in deltas:
        path = delta_folder(session.path) / taken.script
        lines.append(f"\\set {delta_variable(taken.oid)} {argument(str(path))}")
        if taken.oid in fingerprints and [part.kind for part in taken.parts] == ["newer"]:
            together = add_fingerprints(fingerprints[taken.oid], taken.parts[0].fingerprint)
            lines.append(f"\\set cdc_sum_{taken.oid} {argument(together)}")
    lines += [f"\\i {argument(str(files / RESTORE_SCRIPT))}", f"\\echo {_END}\n"]
    try:
        includes = [files, *([delta_folder(session.path)] if deltas else [])]
        with step("psql"):
            finished = clients.psql(database, "\n".join(lines), includes)
    except ProcessError as error:
        raise RestoreError(
            f"The restore failed: {_told(error.stderr, session.path, files)}",
            untouched="The connection was lost: look whether the tables are back before you try again."
            if error.returncode == CONNECTION_LOST and any(words in error.stderr for words in _LOST)
            else "It was one transaction: nothing was changed.",
            remedy=_remedy(error.stderr, with_delta=bool(deltas)),
        ) from error
    of_delta = {int(oid): (int(newer), int(updated)) for oid, newer, updated in _OF_DELTA.findall(finished.stdout)}
    forgotten = [table.qualified for table in deltas if table.oid not in of_delta]
    if forgotten:
        raise RestoreError(
            f"The delta of {', '.join(forgotten)} did not come back.",
            untouched="All else of the session is restored.",
            remedy=f"Its rows are in {delta_folder(session.path)}.",
        )
    done = {}
    for oid, added, differ, removed in (map(int, found) for found in _LINE.findall(finished.stdout)):
        newer, updated = of_delta.get(oid, (0, 0))
        done[oid] = Restored(added=added, differ=differ, removed=removed, newer=newer, updated=updated)
    silent = [t.qualified for t in session.manifest.tables if t.oid in oids and t.kind == "table" and t.oid not in done]
    if silent or _END not in finished.stdout.splitlines():
        raise RestoreError(
            f"psql ended as if all were well, but restore.sql passed over {', '.join(silent) or 'its end'}.",
            untouched="Whether anything was restored is not known: look whether the tables are back.",
            remedy=f"See that restore.sql is whole, and that psql ({clients.place}) is PostgreSQL's own.",
        )
    return done, _told(finished.stderr, session.path, files)


def _remedy(stderr: str, *, with_delta: bool) -> str:
    if lacking := _NO_LABEL.search(stderr):
        # No mode is a way out: what the restore makes has the type of today.
        return (
            f"The type {lacking[1]} has no such label any more. Give it back for the restore: ALTER TYPE {lacking[1]}"
            f" ADD VALUE {literal(lacking[2])}; or, where it was renamed, RENAME VALUE … back to it."
            " In an empty database the type comes back as it was."
        )
    if taken := _NAME_TAKEN.search(stderr):
        return (
            f"What is called {taken[1]} today keeps that from coming back; a table that was renamed keeps the names of"
            " its sequences and indexes. Rename or drop it, or --mode aside brings the rows into a schema of their own."
        )
    if with_delta:
        return (
            "If rows of the delta are at fault, --mode aside brings all into a schema of their own, where no"
            " constraint is in the way; --without-delta leaves them out."
        )
    return ""


def _told(stderr: str, *folders: Path) -> str:
    """What psql said, without the place in our own files."""
    # The delta's folder begins with the session's name.
    ours = "|".join(re.escape(str(folder)) for folder in folders)
    said = re.sub(rf"^psql:(?:(?:{ours})[./][^:]+|<stdin>):\d+: ", "", stderr.strip(), flags=re.MULTILINE)
    return re.sub(r"^CONTEXT: .*\n?", "", said, flags=re.MULTILINE).strip()
