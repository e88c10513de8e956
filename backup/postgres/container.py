"""A database's container, found through the Docker engine: what it is called, whether it runs, where it listens."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backup.errors import UsageError
from backup.postgres.database import Database
from backup.postgres.docker_engine import LOOPBACK, engine, engine_host

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_FOLDER = "com.docker.compose.project.working_dir"
_ONE_OFF = "com.docker.compose.oneoff"
"""The labels by which compose knows its containers."""

_PORT = "5432"
_STATES = {
    "created": ("was created and never started", "start"),
    "exited": ("has ended", "start"),
    "paused": ("is paused", "unpause"),
    "restarting": ("is restarting again and again", "logs"),
}
"""What a container in that state is, in words, and what `docker` is asked about it."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running container with PostgreSQL in it.

    `port` is the server's inside of it, `published` the address and the port under which that is reached from this
    machine, or None. `environment` is what the container was started with: of the official image, POSTGRES_USER and
    the like. `service` is that of its compose file, empty where it has none.
    """

    id: str
    name: str
    image: str
    service: str
    port: str
    published: tuple[str, str] | None
    environment: Mapping[str, str] = field(repr=False)


def find_container(name: str) -> Container:
    """The running container of that name.

    Raises:
        UsageError: there is no engine, no such container, or it does not run.
    """
    with engine() as api:
        there = api.containers(all=True)
        found = [one for one in there if f"/{name}" in one["Names"]]
        if not found:
            names = ", ".join(sorted(one["Names"][0][1:] for one in there)) or "none"
            raise _refusal(f"There is no container {name}; the engine knows {names}.", "Correct the name.")
        return _read(api.inspect_container(found[0]["Id"]))


def find_service(service: str, directory: Path) -> Container:
    """The running container of that service of the project's compose file, by the labels that compose gives it.

    The compose project is the one that COMPOSE_PROJECT_NAME names, that is called like the directory, or whose file
    stands in it or above: another project's service of the same name is another database.

    Raises:
        UsageError: as `find_container`, or there is more than one.
    """
    project = os.environ.get("COMPOSE_PROJECT_NAME") or re.sub(r"[^a-z0-9_-]", "", directory.name.lower())
    with engine() as api:
        there = [one for one in api.containers(all=True) if one["Labels"].get(_SERVICE)]
        called = [one for one in there if one["Labels"][_SERVICE] == service and one["Labels"].get(_ONE_OFF) != "True"]
        found = [one for one in called if one["Labels"].get(_PROJECT) == project]
        if not found and "COMPOSE_PROJECT_NAME" not in os.environ:
            found = [
                one for one in called if (folder := one["Labels"].get(_FOLDER)) and directory.is_relative_to(folder)
            ]
        if len(found) > 1:
            found = [one for one in found if one["State"] == "running"] or found
        if not found:
            raise _no_service(service, project, there, called)
        if len(found) > 1:
            names = ", ".join(one["Names"][0][1:] for one in found)
            raise _refusal(
                f"The compose service {service} has more than one container: {names}.",
                "Name one of them in backup.container.",
            )
        return _read(api.inspect_container(found[0]["Id"]))


def contained(container: Container, variables: Mapping[str, str]) -> Database:
    """The container's database, as it is reached from this machine.

    User, password and database are what POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB say in `variables`, else in
    the container's environment, by the rules of the official image.

    Raises:
        UsageError: its port is not published.
    """
    if container.published is None:
        name = container.service or container.name
        raise _refusal(
            f"The container {container.name} does not publish its port {container.port} to this machine, and a backup "
            "needs connections of its own.",
            "Publish it, on this machine only; the lines for the compose file are:\n"
            f'services:\n  {name}:\n    ports: ["127.0.0.1:5432:{container.port}"]\n'
            "then docker compose up --detach. Where 5432 is taken here, put another number in its place. "
            f"Without compose: docker run --publish 127.0.0.1:5432:{container.port} …",
        )
    given = {**container.environment, **variables}
    user = given.get("POSTGRES_USER") or "postgres"
    address, port = container.published
    # hostaddr too, because libpq would rather take PGHOSTADDR than the host.
    parameters = {"host": address, "hostaddr": address, "port": port, "user": user}
    parameters["dbname"] = given.get("POSTGRES_DB") or user
    if password := given.get("POSTGRES_PASSWORD"):
        parameters["password"] = password
    return Database(parameters=parameters, source=f"the container {container.name}")


def _read(inspected: Mapping[str, Any]) -> Container:
    """What the engine says about a container that must run."""
    shown, config, host = inspected["Name"][1:], inspected["Config"], inspected["HostConfig"]
    service, state = (config.get("Labels") or {}).get(_SERVICE, ""), inspected["State"]["Status"]
    if state != "running":
        words, command = in_words(state, shown, service)
        raise _refusal(f"The container {shown} {words}.", f"{command}, then run this again.")
    environment = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    ports = {
        port.removesuffix("/tcp"): bindings
        for port, bindings in (inspected["NetworkSettings"].get("Ports") or {}).items()
        if bindings and port.endswith("/tcp")
    }
    port = environment.get("PGPORT") or _PORT
    if port not in ports and len(ports) == 1:  # the server was told by an argument to listen elsewhere
        (port,) = ports
    published = None
    if host.get("NetworkMode") == "host":
        published = (_address(engine_host()), port)
    else:
        for binding in ports.get(port, ()):
            if address := _reachable(binding["HostIp"]):
                published = (address, binding["HostPort"])
                break
    return Container(
        id=inspected["Id"],
        name=shown,
        image=config.get("Image") or "",
        service=service,
        port=port,
        published=published,
        environment=environment,
    )


def in_words(state: str, name: str, service: str) -> tuple[str, str]:
    """What a container in the state is, and the command that makes it run again, or tells why it does not."""
    words, verb = _STATES.get(state, (f"is {state}", "start"))
    return words, f"docker compose {verb} {service}" if service else f"docker {verb} {name}"


def _reachable(bound: str) -> str | None:
    """The address under which a port is reached that the engine's machine has bound to that one."""
    host = engine_host()
    if bound in ("", "0.0.0.0"):  # noqa: S104 - read, not bound
        return _address(host)
    if bound == "::":
        return _address(host) if host else "::1"
    return None if host and bound in LOOPBACK else bound


def _address(host: str | None) -> str:
    if host is None:
        return LOOPBACK[0]
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise _refusal(f"The engine's machine {host} is not known here: {error}", "Correct DOCKER_HOST.") from None


def _no_service(service: str, project: str, there: list[Any], called: list[Any]) -> UsageError:
    if called:
        others = ", ".join(sorted({one["Labels"].get(_PROJECT, "") for one in called}))
        return _refusal(
            f"The compose service {service} is of {others}, and this project is {project}.",
            "Set COMPOSE_PROJECT_NAME to the one that is meant, or name the container in backup.container.",
        )
    names = ", ".join(sorted({one["Labels"][_SERVICE] for one in there})) or "none"
    return _refusal(
        f"There is no container of a compose service {service}; the engine knows {names}.",
        "Correct backup.compose_service, or make the container: docker compose up --detach.",
    )


def _refusal(what: str, remedy: str) -> UsageError:
    return UsageError(what, untouched="Nothing was read or changed.", remedy=remedy)
