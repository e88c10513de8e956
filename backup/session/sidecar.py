"""What is learned about a session after it was published: in files beside it, so that it never changes."""

import os
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from backup.errors import BackupError


class Sidecar(BaseModel):
    """A small JSON file beside a session, `<session>.<kind>.json`. Times are UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def beside(cls, session: Path) -> Path:
        """Where it is."""
        return session.with_name(f"{session.name}.{cls.__name__.lower()}.json")

    @classmethod
    def read(cls, session: Path) -> Self | None:
        """What there is of this kind; None where there is nothing.

        Raises:
            BackupError: there is something, and it cannot be read.
        """
        path = cls.beside(session)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise BackupError(f"{path} cannot be read: {error}") from error

    def write(self, session: Path) -> None:
        """Put it beside the session, whole or not at all."""
        path = self.beside(session)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


class DrilledTable(BaseModel):
    """A table that was restored on the scratch database; `fingerprint` is of its rows there."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_name: str
    name: str
    rows: int
    fingerprint: str


class Drill(Sidecar):
    """The proof of a session, or why there is none: `problem` is empty where it passed.

    `scratch` says where it took place; `unproven` what a database without the other tables cannot show. `delta`
    is whether there was one and it came back with the session, `delta_problem` why it did not.
    """

    moment: datetime
    scratch: str
    problem: str
    unproven: tuple[str, ...]
    tables: tuple[DrilledTable, ...]
    delta: bool = False
    delta_problem: str = ""


class Verdict(Sidecar):
    """What the migration that followed the session destroyed: tables, each with how; None while nobody knows.

    `announced` are those of them of which a person was told before. `machinery` says what was taken from that
    which writes and publishes the tables, with the statements that make it again. `sentence` is the whole in one.
    What a session's older neighbour does not say is empty.
    """

    moment: datetime
    command: str
    destroyed: dict[str, str] | None
    announced: tuple[str, ...] = ()
    machinery: tuple[str, ...] = ()
    sentence: str = ""


class Restore(Sidecar):
    """When each table was last brought back from the session to where it had been."""

    tables: dict[str, datetime]


def remove_sidecars(session: Path) -> None:
    """Remove all that is beside the session."""
    for kind in (Drill, Verdict, Restore):
        kind.beside(session).unlink(missing_ok=True)
