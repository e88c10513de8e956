"""Connection poolers between us and the server: whether the session that we talk to is ours alone."""

import selectors
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from psycopg import pq

from backup.postgres.tables import Connection

_ROUNDS = 4
_PATIENCE = 10.0
"""Seconds that a pooler may take to find a server connection for us."""


def why_not_ours(connection: Connection, connect: Callable[[], AbstractContextManager[Connection]]) -> str:
    """Why the session of `connection` cannot be relied on; empty where it is ours until we leave.

    In transaction and statement mode a pooler hands its server connections around between two statements.
    What pg_dump sets for its session would then be missing when it reads, and stay, an empty search_path
    among it, for the application. So nothing is set here.

    A server tells its client the number of the process that serves it (PostgreSQL manual, "Message
    Formats", BackendKeyData); a pooler must make one up, because its clients share processes. Behind a
    pooler the session is ours if nobody else gets our process while we are between two statements, and we
    no other one. The other connections stay in a transaction, so that each leaves a shared pool one process
    less to hide ours in.

    Args:
        connection: in autocommit mode.
        connect: makes another one like it.
    """
    ours = _process(connection)
    if connection.info.backend_pid == ours:
        return ""
    with ExitStack() as others:
        for _ in range(_ROUNDS):
            other = others.enter_context(connect())
            problem = _begin(other)
            if problem:
                return problem
            if _process(other) == ours or _process(connection) != ours:
                return "it gives its server connections to others between two statements"
    return ""


def _process(connection: Connection) -> int:
    """The number of the server process that answers right now."""
    row = connection.execute("select pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None  # noqa: S101 - a query without FROM has one row
    return int(row[0])


def _begin(connection: Connection) -> str:
    """Begin a transaction, but do not wait for ever until the pooler has a server connection; why it is not begun."""
    connection.pgconn.send_query(b"begin")
    with selectors.DefaultSelector() as selector:
        selector.register(connection.pgconn.socket, selectors.EVENT_READ)
        if not selector.select(_PATIENCE):
            connection.close()
            return f"it had no further server connection for us within {_PATIENCE:g} s"
    said = ""
    while (result := connection.pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            said = said or f"it answered {' '.join(result.error_message.decode(errors='replace').split())!r}"
    return said
