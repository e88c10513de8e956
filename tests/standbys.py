"""A hot standby, and a server that does not get beyond its start."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from backup.errors import ProcessError
from backup.postgres.account import find_account
from backup.postgres.embedded import Server
from backup.postgres.owned_folder import owned_folder
from tests.lacking import lacking
from tests.poolers import free_port


@contextmanager
def standby(primary: Server) -> Iterator[Server]:
    """A hot standby of the server, with all that was committed there."""
    if not (primary.binaries / "pg_basebackup").exists():
        lacking("standbys (the server has no pg_basebackup)")
    copying = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync", f"--dbname={primary.url()}")
    with _copied(primary, "pg_basebackup", *copying) as copy:
        yield copy


@contextmanager
def starting_server(like: Server) -> Iterator[Server]:
    """A server that waits, while it starts, for a file of an archive that never comes."""
    if not (like.binaries / "pg_basebackup").exists():
        lacking("a server that is starting up (the server has no pg_basebackup)")
    copying = ("--checkpoint=fast", "--no-sync", f"--dbname={like.url()}")
    with _copied(like, "pg_basebackup", *copying, waiting=True) as copy:
        yield copy


def catch_up(standby: Server, primary: Server) -> None:
    """Wait until the standby shows what was committed on the primary."""
    with psycopg.connect(primary.url(), autocommit=True) as there, psycopg.connect(standby.url()) as here:
        here.autocommit = True
        position = there.execute("select pg_current_wal_insert_lsn()").fetchone()
        while here.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", position).fetchone() != (True,):
            there.execute("checkpoint")  # which sends what was not sent yet


@contextmanager
def _copied(primary: Server, program: str, *copying: str, waiting: bool = False) -> Iterator[Server]:
    account = find_account()
    with owned_folder(account.place(), account.user, account.group) as folder:
        data, port = folder / "data", free_port()

        def run(name: str, *arguments: str) -> None:
            account.run(folder, str(primary.binaries / name), "-D", str(data), *arguments)

        run(program, *copying)
        if waiting:
            (data / "recovery.signal").touch()
            with (data / "postgresql.conf").open("a") as configuration:
                configuration.write("restore_command = 'sleep 60'\n")
        try:
            log = data / "copy.log"
            run("pg_ctl", "start", "-W" if waiting else "-w", "-l", str(log), "-o", f"-p {port}")
            yield replace(primary, data=data, log=log, port=port)
        finally:
            with contextlib.suppress(ProcessError):
                run("pg_ctl", "stop", "-w", "-m", "immediate")
