"""PostgreSQL's own programs pg_dump and psql, wherever they run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from backup.postgres.database import Database
from backup.process import Finished, run

CONNECTION_LOST = 2
"""psql's exit code for that (its manual, "Exit Status")."""

PROGRAMS = ("pg_dump", "pg_restore", "psql")
"""They come together; where one is of another version, the folder is not what its installer made."""


class Clients(Protocol):
    """pg_dump and psql of one version, wherever they run."""

    @property
    def version(self) -> str:
        """Their version, such as 15.4."""

    @property
    def place(self) -> str:
        """Where they are, for people."""

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run pg_dump; what it writes, a file or a folder as `options` say, is `target` afterwards.

        `variables` are added to the environment in which it reaches the database.

        Raises:
            ProcessError: it failed.
        """

    def psql(self, database: Database, script: str, includes: Sequence[Path] = ()) -> Finished:
        """Run psql with a script that includes files of this machine by their absolute paths.

        `includes` are those files, or the folders that they are in.

        Raises:
            ProcessError: it ended with another exit code than 0.
        """


@dataclass(frozen=True, kw_only=True)
class InstalledClients:
    """pg_dump and psql of one version, in one folder of this machine."""

    folder: Path
    version: str

    @property
    def place(self) -> str:
        """Their folder."""
        return str(self.folder)

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run pg_dump as a child; as the protocol says."""
        run(
            (self._program("pg_dump"), "--no-password", f"--file={target}", *options, *database.arguments()),
            environment={**database.environment(), **variables},
        )

    def psql(self, database: Database, script: str, includes: Sequence[Path] = ()) -> Finished:
        """Run psql as a child; as the protocol says."""
        return run(
            (self._program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--file=-", *database.arguments()),
            environment=database.environment(),
            stdin=script,
        )

    def _program(self, name: str) -> str:
        return str(self.folder / name)


def major(version: str) -> int:
    """The major version: 15 of 15.4, 19 of 19beta1."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def argument(text: str) -> str:
    """An argument of a psql command, in single quotes by psql's rules."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def quoted(name: str) -> str:
    """A name in a pattern of pg_dump's, where it stands for itself alone."""
    return '"' + name.replace('"', '""') + '"'
