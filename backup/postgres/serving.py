"""The clients of a run: those that were chosen for its server, and others for one that these do not serve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from backup.postgres.clients import Clients, InstalledClients
from backup.postgres.database import Database
from backup.postgres.find_clients import find_clients, serves
from backup.process import Finished


@dataclass(frozen=True, kw_only=True)
class ServingClients:
    """pg_dump and psql for every server that a run comes to; `server` is the one that `chosen` were chosen for.

    A scratch database may be on a newer server, or on one that is reached another way. Where `chosen` do not serve
    it, the newest on this machine that do are taken.
    """

    chosen: Clients
    server: str
    _others: dict[str, Clients] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def version(self) -> str:
        """The version of the chosen ones."""
        return self.chosen.version

    @property
    def place(self) -> str:
        """Where the chosen ones are, for people."""
        return self.chosen.place

    def of(self, database: Database) -> Clients:
        """Those that serve the database's server.

        Raises:
            BackupError: there are none, with what was found where.
            DatabaseError: the server is not reached.
        """
        server = database.server
        if server == self.server:
            return self.chosen
        if server not in self._others:
            self._others[server] = self._look_for(database)
        return self._others[server]

    def pg_dump(
        self, database: Database, *options: str, target: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Run the pg_dump that serves the database; as the protocol says."""
        self.of(database).pg_dump(database, *options, target=target, variables=variables)

    def psql(self, database: Database, script: str, includes: Sequence[Path] = ()) -> Finished:
        """Run the psql that serves the database; as the protocol says."""
        return self.of(database).psql(database, script, includes)

    def _look_for(self, database: Database) -> Clients:
        # What runs in a container reaches the server there alone.
        if isinstance(self.chosen, InstalledClients) and serves(self.chosen, database):
            return self.chosen
        return find_clients(database)
