"""What stands between a client and a server: pgbouncer, and a proxy that only passes bytes on."""

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from backup.postgres.account import find_account
from backup.postgres.embedded import Server
from backup.postgres.owned_folder import owned_folder
from tests.lacking import lacking


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def pgbouncer(server: Server, mode: str, *settings: str) -> Iterator[int]:
    """The port of a pgbouncer in that pool mode in front of every database of the server."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        lacking("connection poolers (pgbouncer is not installed)")
    account, port = find_account(), free_port()
    with owned_folder(account.place(), account.user, account.group) as folder:
        users, configuration = folder / "data" / "users", folder / "data" / "pgbouncer.ini"
        users.write_text(f'"{server.superuser}" "{server.password}"\n')
        configuration.write_text(
            "\n".join(
                (
                    f"[databases]\n* = host={server.host} port={server.port}",
                    f"[pgbouncer]\npool_mode = {mode}\nlisten_addr = 127.0.0.1\nlisten_port = {port}",
                    f"auth_type = scram-sha-256\nauth_file = {users}\nunix_socket_dir =",
                    *settings,
                )
            )
        )
        for file in (users, configuration):
            if account.user is not None:
                shutil.chown(file, account.user, account.group)
        child = subprocess.Popen(
            (program, "-q", str(configuration)),
            user=account.user,
            group=account.group,
            extra_groups=() if account.user is not None else None,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not _listens(port):
                assert child.poll() is None, "pgbouncer ended"
            yield port
        finally:
            child.terminate()
            child.wait()


def through(url: str, server: Server, port: int) -> str:
    """The URL of a database of the server, by another port."""
    return url.replace(f":{server.port}/", f":{port}/")


@contextmanager
def hammering(url: str, clients: int) -> Iterator[None]:
    """An application with so many clients that ask without a pause."""
    over = threading.Event()
    asked = [threading.Event() for _ in range(clients)]

    def ask(event: threading.Event) -> None:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            while not over.is_set():
                connection.execute("select 1")
                event.set()

    threads = [threading.Thread(target=ask, args=(event,)) for event in asked]
    try:
        for thread in threads:
            thread.start()
        for event in asked:
            assert event.wait(30)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def proxy(server: Server) -> Iterator[int]:
    """The port of a proxy that passes on bytes and knows nothing of PostgreSQL, like socat."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        open_ones: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                behind = socket.create_connection((server.host, server.port))
                open_ones.extend((client, behind))
                for source, target in ((client, behind), (behind, client)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for one in open_ones:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
