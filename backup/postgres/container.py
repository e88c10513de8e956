"""A database's container, found through the Docker engine: what it is called, whether it runs, where it listens."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backup.errors import UsageError
from backup.postgres.database import Database

if TYPE_CHECKING:
    from docker import APIClient

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_PORT = "5432"

_ENGINE_ANSWERS_WITHIN = 15
"""Seconds."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running container with PostgreSQL in it.

    `port` is the server's inside of it, `published` the host and the port under which that is reached from this
    machine, or None. `environment` is what the container was started with: of the official image, POSTGRES_USER and
    the like. `service` is that of its compose file, empty where it has none.
    """

    id: str
    name: str
    service: str
    port: str
    published: tuple[str, str] | None
    environment: Mapping[str, str] = field(repr=False)


def find_container(*, name: str = "", service: str = "", project: str = "") -> Container:
    """The running container of that name, or of that service of a compose file.

    Args:
        name: the container's.
        service: what a compose file calls it, where no `name` is given.
        project: of compose, where several have such a service.

    Raises:
        UsageError: there is no engine, no such container, more than one, or it does not run.
    """
    with engine() as api:
        there = api.containers(all=True)
        if name:
            found = [one for one in there if f"/{name}" in one["Names"]]
        else:
            found = [one for one in there if one["Labels"].get(_SERVICE) == service]
            if len({one["Labels"].get(_PROJECT) for one in found}) > 1:
                found = [one for one in found if one["Labels"].get(_PROJECT) == project]
        what = f"container {name}" if name else f"container of the compose service {service}"
        if not found:
            known = sorted(one["Labels"].get(_SERVICE, "") if service else one["Names"][0][1:] for one in there)
            names = ", ".join(filter(None, known)) or "none"
            raise _refusal(
                f"There is no {what}.",
                f"The engine knows {names}; correct backup.{'container' if name else 'compose_service'}.",
            )
        if len(found) > 1:
            names = ", ".join(one["Names"][0][1:] for one in found)
            raise _refusal(f"There is more than one {what}: {names}.", "Name one of them in backup.container.")
        inspected = api.inspect_container(found[0]["Id"])
    running = inspected["State"]["Status"]
    shown = inspected["Name"][1:]
    labels = inspected["Config"].get("Labels") or {}
    if running != "running":
        start = f"docker compose start {labels[_SERVICE]}" if _SERVICE in labels else f"docker start {shown}"
        raise _refusal(f"The container {shown} is {running}.", f"Start it: {start}.")
    variables = dict(entry.partition("=")[::2] for entry in inspected["Config"].get("Env") or ())
    port = variables.get("PGPORT", _PORT)
    bindings = (inspected["NetworkSettings"].get("Ports") or {}).get(f"{port}/tcp")
    return Container(
        id=inspected["Id"],
        name=shown,
        service=labels.get(_SERVICE, ""),
        port=port,
        published=(_reachable(bindings[0]["HostIp"]), bindings[0]["HostPort"]) if bindings else None,
        environment=variables,
    )


def contained(container: Container) -> Database:
    """The container's database, as it is reached from this machine.

    User, password and database are what POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB say in our environment, else
    in the container's, by the rules of the official image.

    Raises:
        UsageError: its port is not published.
    """
    if container.published is None:
        lines = f'services:\n  {container.service or container.name}:\n    ports: ["127.0.0.1:5432:{container.port}"]'
        raise _refusal(
            f"The container {container.name} does not publish its port {container.port}, and a backup needs "
            "connections of its own.",
            f"Publish it, on this machine only; the lines for the compose file are:\n{lines}\n"
            f"Without compose: docker run --publish 127.0.0.1:5432:{container.port} …",
        )
    ours = {name: value for name, value in os.environ.items() if name.startswith("POSTGRES_")}
    variables = {**container.environment, **ours}
    user = variables.get("POSTGRES_USER") or "postgres"
    host, port = container.published
    # hostaddr too, because libpq would rather take PGHOSTADDR than the host.
    parameters = {"host": host, "hostaddr": host, "port": port, "user": user}
    parameters["dbname"] = variables.get("POSTGRES_DB") or user
    if password := variables.get("POSTGRES_PASSWORD"):
        parameters["password"] = password
    return Database(parameters=parameters, source=f"the container {container.name}")


@contextmanager
def engine() -> Iterator["APIClient"]:
    """The Docker engine that DOCKER_HOST or the current context names.

    Raises:
        UsageError: none answers, or this user may not ask it.
    """
    # Slow to import, and most databases are in no container.
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        api = docker.APIClient(base_url=_address(), version="auto", timeout=_ENGINE_ANSWERS_WITHIN)
    except (DockerException, RequestException, OSError) as error:
        said = str(error)
        if "Permission" in said:
            raise _refusal(
                "This user may not talk to the Docker engine: permission on its socket is denied.",
                "Add the user to the group docker, and log in again; or set DOCKER_HOST to an engine of your own.",
            ) from None
        raise _refusal(
            "No Docker engine answers" + (f" at {address}" if (address := _address()) else "") + ".",
            "Start Docker, or set DOCKER_HOST to where its engine listens.",
        ) from None
    try:
        # A restore may be silent for longer than any limit.
        api.timeout = None  # type: ignore[assignment]
        yield api
    except DockerException as error:
        raise _refusal(f"The Docker engine refused: {error}", "See what docker ps says.") from error
    finally:
        api.close()


def _address() -> str | None:
    from docker.context import ContextAPI

    if host := os.environ.get("DOCKER_HOST"):
        return host
    context = ContextAPI.get_current_context()
    return str(context.Host) if context is not None and context.Host else None


def _reachable(address: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - read, not bound


def _refusal(what: str, remedy: str) -> UsageError:
    return UsageError(what, untouched="Nothing was read or changed.", remedy=remedy)
