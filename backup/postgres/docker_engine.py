"""The Docker engine: how it is reached, and a program that it runs inside of a container."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backup.errors import BackupError, UsageError
from backup.process import BY_A_SIGNAL

if TYPE_CHECKING:
    from docker import APIClient

_ANSWERS_WITHIN = 60
"""Seconds. What a program inside says is waited for as long as it takes."""

CUT_OFF = 2
"""The exit code of a program whose end we were not told: psql's own for a lost connection."""

LOOPBACK = ("127.0.0.1", "::1")
_NO_SUCH_PROGRAM = 127
_SERVER_GONE = (b"server closed the connection", b"terminating connection")
_TRIES, _TRY = 30, 0.1
"""How often, and after how many seconds each, to look whether a program that is not waited for any more has ended."""

_START = "Start Docker, or set DOCKER_HOST to where its engine listens."
_UNANSWERED = (
    ("FileNotFoundError", "", _START),
    ("Connection refused", "", _START),
    ("resolve", "the name is not known here", "Correct DOCKER_HOST."),
    ("timed out", "it took too long", "See whether that machine lets this one in, or correct DOCKER_HOST."),
)
"""What the SDK says, what that means, and what to do; what is not here is told as the SDK says it."""


@dataclass(frozen=True, kw_only=True)
class Executed:
    """A program that ran inside: its exit code, and what it wrote to its two streams."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def said(self) -> str:
        """Why it failed, in its own words."""
        return (self.stderr or self.stdout).decode(errors="replace").strip()


@contextmanager
def engine() -> Iterator["APIClient"]:
    """The Docker engine that DOCKER_HOST or the current context names.

    Raises:
        UsageError: none answers, or this user may not ask it.
        BackupError: it refused what it was asked, or stopped answering.
    """
    import docker

    try:
        api = docker.APIClient(**_named(), version="auto", timeout=_ANSWERS_WITHIN)
    except failures() as error:
        if "Permission" in str(error):
            raise UsageError(
                "This user may not talk to the Docker engine: permission on its socket is denied.",
                untouched="Nothing was read or changed.",
                remedy="Add the user to the group docker and log in again; or set DOCKER_HOST to another engine.",
            ) from None
        address = os.environ.get("DOCKER_HOST", "")
        why, remedy = _why_unanswered(address, str(error))
        raise UsageError(
            f"No Docker engine answers{address and f' at {address}'}{why and f': {why}'}.",
            untouched="Nothing was read or changed.",
            remedy=remedy,
        ) from None
    try:
        yield api
    except failures() as error:
        raise BackupError(f"The Docker engine failed: {cause(error)}", remedy="See what docker ps says.") from error
    finally:
        api.close()


def _why_unanswered(address: str, said: str) -> tuple[str, str]:
    """Why no engine answers at what DOCKER_HOST says, in a few words, and what to do about it."""
    scheme = address.partition("://")[0]
    if scheme == "npipe" and os.name != "nt":
        return (
            "that is a pipe of Windows",
            "Unset DOCKER_HOST where an engine listens here; in WSL, Docker Desktop's integration brings its socket.",
        )
    if scheme == "ssh" and "paramiko" in said:
        return (
            "to reach one by ssh takes the package paramiko",
            "pip install 'docker[ssh]'; or let ssh bring its socket here: ssh -N -L /tmp/docker.sock:"
            f"/var/run/docker.sock {address.removeprefix('ssh://')}, and DOCKER_HOST=unix:///tmp/docker.sock.",
        )
    for words, why, remedy in _UNANSWERED:
        if words in said or words.replace(" ", "") in said:
            return why, remedy
    return " ".join(said.split()), _START


def failures() -> tuple[type[Exception], ...]:
    """What the SDK raises where an engine refuses or is lost."""
    # Slow to import, and most databases are in no container.
    from docker.errors import DockerException
    from docker.utils.socket import SocketError
    from requests.exceptions import RequestException

    return DockerException, RequestException, SocketError, ConnectionError


def engine_host() -> str | None:
    """The machine that the engine is on, or None where that is this one."""
    address = urlsplit(_named().get("base_url") or "")
    if address.scheme not in ("tcp", "http", "https", "ssh") or address.hostname in ("localhost", *LOOPBACK):
        return None
    return address.hostname


def execute(
    api: "APIClient",
    container: str,
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    stop: Callable[[], None] = lambda: None,
) -> Executed:
    """Run a program in the container with that ID, and wait.

    Where it is not waited for to its end, because of a signal or because the engine was lost, `stop` is called until it
    has ended: an engine cannot end what it executes.
    """
    from docker.errors import APIError
    from docker.utils.socket import SocketError

    id_ = api.exec_create(container, list(argv), environment=dict(environment))["Id"]
    try:
        stdout, stderr = api.exec_start(id_, demux=True)
        code = api.exec_inspect(id_)["ExitCode"]
        if code is None:
            raise SocketError("its end was not told")
    except BaseException as error:
        if isinstance(error, APIError) and "exec failed" in str(error):
            return Executed(returncode=_NO_SUCH_PROGRAM, stdout=b"", stderr=cause(error).encode())
        for _ in range(_TRIES):
            # A server that stands still answers nobody, and all that is inside stands still with it.
            if state_of(api, container) not in ("running", ""):
                break
            stop()
            with suppress(*failures()):
                if not api.exec_inspect(id_)["Running"]:
                    break
            time.sleep(_TRY)
        if not isinstance(error, failures()):
            raise
        said = f"We were cut off from what ran in the container: {cause(error)}"
        return Executed(returncode=CUT_OFF, stdout=b"", stderr=said.encode())
    return Executed(returncode=int(code), stdout=stdout or b"", stderr=stderr or b"")


def state_of(api: "APIClient", container: str) -> str:
    """What the engine calls the container's state: running, paused, exited; empty where it does not say."""
    with suppress(*failures()):
        return str(api.inspect_container(container)["State"]["Status"])
    return ""


def state_after(api: "APIClient", container: str, ended: Executed) -> str:
    """The container's state, as `state_of`, after a program in it failed.

    Who stops a container ends what runs in it first, and the server, and the engine says so a moment later.
    """
    cut_off = ended.returncode > BY_A_SIGNAL or any(words in ended.stderr for words in _SERVER_GONE)
    for _ in range(_TRIES if cut_off else 0):
        if state_of(api, container) != "running":
            break
        time.sleep(_TRY)
    return state_of(api, container)


def _named() -> dict[str, Any]:
    """The engine that DOCKER_HOST names, else the context that is chosen; for the SDK."""
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    if os.environ.get("DOCKER_HOST"):
        return dict(kwargs_from_env())
    context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    return {"base_url": context.Host, "tls": context.TLSConfig or False} if context and context.Host else {}


def cause(error: BaseException) -> str:
    """The engine's own sentence, without what HTTP wraps around it."""
    told = getattr(error, "explanation", None) or str(error)
    return " ".join(str(told).split())
