"""What a delta holds: for each table the parts that were saved, in order, and whose session it belongs to."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backup.errors import BackupError, RestoreError
from backup.session.folder import MANIFEST, RESTORE_SCRIPT, Session, hash_file

DELTA = "delta.json"

_HOOK = re.compile(rb"^\\ir :cdc_delta_(\d+)$", re.MULTILINE)
_WAY_OUT = "restore --without-delta brings back the session alone, which does not have the rows of its delta."


class Part(BaseModel):
    """Rows of a table that were saved at one moment, in a file that psql reads.

    `newer` are the rows that the snapshot did not show: with the session's they are the table as it was. `merged`
    rows take the place of the session's rows of the same key, or are added where there is none; without a key they
    are all rows of the table, and as many of them are added as it has more of. `fingerprint` is what the server
    computed of just these rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["newer", "merged"]
    file: str
    sha256: str
    bytes: int
    columns: tuple[str, ...]
    rows: int
    fingerprint: str


class DeltaTable(BaseModel):
    """A table's parts, and the script that makes one of them and the session's rows; `oid` as in the session."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    oid: int
    schema_name: str
    name: str
    script: str
    script_sha256: str
    parts: tuple[Part, ...]

    @property
    def qualified(self) -> str:
        """`schema.name`, for people."""
        return f"{self.schema_name}.{self.name}"


class Delta(BaseModel):
    """`delta.json`: what was saved of the tables after the session; it fits the session with that manifest alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    format_version: Literal[1] = 1
    session: str
    manifest_sha256: str
    tables: tuple[DeltaTable, ...] = ()

    @property
    def rows(self) -> int:
        """The rows of all parts."""
        return sum(part.rows for table in self.tables for part in table.parts)

    @property
    def bytes(self) -> int:
        """The size of all parts."""
        return sum(part.bytes for table in self.tables for part in table.parts)

    def of(self, oid: int) -> tuple[Part, ...]:
        """The table's parts."""
        return next((table.parts for table in self.tables if table.oid == oid), ())


def delta_folder(session: Path) -> Path:
    """Where a session's delta is."""
    return session.with_name(f"{session.name}.delta")


def read_delta(session: Path) -> Delta | None:
    """The session's delta; None where it has none.

    Raises:
        BackupError: there is one, and it cannot be read.
    """
    path = delta_folder(session) / DELTA
    try:
        return Delta.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            return None
        raise BackupError(f"{path} cannot be read: {error}", remedy=_WAY_OUT) from error


def aside_files(session: Path) -> tuple[Path, ...]:
    """The files of the session's delta with rows that no restore brings in by itself: they are for a person."""
    return tuple(sorted(delta_folder(session).glob("*.aside.sql")))


def lonely_deltas(root: Path) -> tuple[Path, ...]:
    """The deltas in `root` whose session is not there."""
    return tuple(sorted(path for path in root.glob("backup_*.delta") if not path.with_suffix("").exists()))


def verify_delta(session: Session, delta: Delta, oids: Collection[int]) -> None:
    """Refuse a delta that is not, byte for byte, what was written for this session, or that it cannot take.

    `oids` are the tables that are looked at.

    Raises:
        RestoreError: it is another's, or damaged, or the session's files know of no delta.
    """

    def refuse(why: str) -> RestoreError:
        return RestoreError(f"The delta of {session.name}: {why}.", untouched="Nothing was restored.", remedy=_WAY_OUT)

    if (delta.session, delta.manifest_sha256) != (session.name, hash_file(session.path / MANIFEST)):
        raise refuse(f"it was written for the session {delta.session}, and this one is not that")
    folder = delta_folder(session.path)
    tables = [table for table in delta.tables if table.oid in oids]
    expected = {part.file: part.sha256 for table in tables for part in table.parts}
    expected |= {table.script: table.script_sha256 for table in tables}
    wrong = [name for name, sha256 in expected.items() if _hash(folder / name) != sha256]
    if wrong:
        raise refuse(f"{', '.join(wrong)} is not what was written; the SHA-256 is another")
    takes = taking_delta(session, oids)
    deaf = [table.qualified for table in tables if table.oid not in takes]
    if deaf:
        raise refuse(f"the session's files do not know what a delta is, so that they would pass over {', '.join(deaf)}")


def taking_delta(session: Session, oids: Collection[int]) -> frozenset[int]:
    """Those of the tables for which the session's files look for a delta; before there were any, no file did."""
    found = _HOOK.findall((session.path / RESTORE_SCRIPT).read_bytes())
    for table in session.manifest.tables:
        if table.packed and table.oid in oids:  # whoever compresses, knows of deltas
            found.append(str(table.oid).encode())
        elif table.file and table.oid in oids:
            with (session.path / table.file).open("rb") as file:
                file.seek((table.rows_offset or 0) + (table.rows_bytes or 0))
                found += _HOOK.findall(file.read())
    return frozenset(map(int, found)).intersection(oids)


def delta_variable(oid: int) -> str:
    """The psql variable that holds the path of the script which brings in the table's delta."""
    return f"cdc_delta_{oid}"


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except FileNotFoundError:
        return ""
