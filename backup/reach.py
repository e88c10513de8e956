"""How a run reaches its database: by which URL, in which container, with which programs.

What is for containers alone is imported where there is one.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from backup.database_url import database_url, find_variable
from backup.errors import BackupError, CDCBackupError, DatabaseError, UsageError
from backup.postgres.clients import Clients
from backup.postgres.database import Database
from backup.postgres.find_clients import find_clients
from backup.postgres.serving import ServingClients
from backup.settings import Settings

if TYPE_CHECKING:
    from backup.postgres.container import Container
    from backup.postgres.container_clients import ContainerClients

_OF_THE_IMAGE = ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")
_OLDER = "APP_NAME"
"""The variable by which older set-ups of this kind know the container: `<APP_NAME>-postgres`."""


class Reach:
    """The database of a run, the container that it is in, and the clients; each is looked for when it is needed.

    Args:
        settings: what the project wants.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._contained_clients: ContainerClients | None = None

    @cached_property
    def database(self) -> Database:
        """The database that the URL names, else the one in the container, else that of the `PG*` variables.

        Raises:
            UsageError: nobody names one, or its container cannot be reached.
        """
        settings = self._settings
        url = database_url(settings)
        if url is not None:
            return Database.from_url(url.url, url.source)
        configured = settings.container or settings.compose_service
        if not configured and (database := Database.from_environment()):
            return database
        unset = (
            f"No database: {settings.url_variable} is set neither in the environment nor in "
            f"{settings.directory / '.env'}, nor is any of PGHOST, PGSERVICE and PGDATABASE"
        )
        try:
            if container := self.container:
                from backup.postgres.container import contained

                given = {name: found[0] for name in _OF_THE_IMAGE if (found := find_variable(settings, name))}
                return contained(container, given)
        except UsageError as error:
            if configured:
                raise
            what = f"{unset}. By {_OLDER}: {error.what}"
            raise UsageError(what, untouched=error.untouched, remedy=error.remedy) from error
        raise UsageError(
            f"{unset}.",
            untouched="Nothing was read or started.",
            remedy=f"Set {settings.url_variable}=postgresql://user:password@host:port/database; or name the "
            "database's container in backup.container, or its service in backup.compose_service.",
        )

    @cached_property
    def container(self) -> Container | None:
        """The container that the database is in, where one is named.

        Raises:
            UsageError: it is not there or does not run, or no engine answers.
        """
        from backup.postgres.container import find_container, find_service

        settings = self._settings
        if settings.container:
            return find_container(settings.container)
        if settings.compose_service:
            return find_service(settings.compose_service, settings.directory)
        if database_url(settings) is None and Database.from_environment() is None:
            app = find_variable(settings, _OLDER)
            return find_container(f"{app[0]}-postgres") if app else None
        return None

    def container_clients(self, container: Container) -> ContainerClients:
        """The clients in the database's container, looked at once.

        Raises:
            BackupError: they do not serve, or it is not the database's.
        """
        if self._contained_clients is None:
            from backup.postgres.container_clients import container_clients

            self._contained_clients = container_clients(container, self.database)
        return self._contained_clients

    def clients(self) -> ServingClients:
        """The clients that the settings ask for; for the server of a scratch database others, where these do not serve.

        Raises:
            BackupError: none serve the database's server, with what was found where.
        """
        return ServingClients(chosen=self._chosen(), server=self.database.server)

    def _chosen(self) -> Clients:
        choice, database = self._settings.clients, self.database
        if choice == "container":
            if self.container is None:
                raise UsageError(
                    "backup.clients is container, and no container is named.",
                    untouched="Nothing was read or started.",
                    remedy="Name it in backup.container, or its service in backup.compose_service.",
                )
            return self.container_clients(self.container)
        try:
            return find_clients(database, choice)
        except DatabaseError:
            raise
        except BackupError as error:
            none_here = error
        # Last, not among the others: being of the server's own major version, they are newer by a minor one at most.
        try:
            if choice == "auto" and self.container:
                return self.container_clients(self.container)
        except CDCBackupError as error:
            what = f"{none_here.what}\nNor do those in its container: {error.what}"
            raise BackupError(what, untouched=none_here.untouched, remedy=error.remedy) from error
        raise none_here
