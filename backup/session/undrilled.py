"""Why a drill came to no end: what kept it from proving a session, and is no fault of that."""

import errno
from collections.abc import Iterator

import psycopg

from backup.errors import CDCBackupError, DatabaseError, ProcessError, UndrilledError
from backup.postgres.clients import CONNECTION_LOST
from backup.postgres.scratch import Scratch
from backup.process import BY_A_SIGNAL
from backup.session.folder import Session

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM = ("No space left on device", "Disk quota exceeded")
_CUT_OFF = ("server closed the connection", "terminating connection", "were cut off")
_OF_THE_SERVER = ("08", "53", "57", "58")
"""Classes of SQLSTATE (PostgreSQL manual, appendix A): the connection, resources, the operator, the system."""


def undrilled(session: Session, why: str, remedy: str) -> UndrilledError:
    """The error that says so; `remedy` is what to do before the session is drilled again."""
    return UndrilledError(
        f"The session {session.name} could not be drilled: {why.rstrip('.')}.",
        untouched=f"It is kept as it was, in {session.path}; whether it can be restored, this drill does not say.",
        remedy=f"{remedy} Then drill --session {session.name} proves it.".strip(),
    )


def why_undrilled(error: BaseException, session: Session, scratch: Scratch) -> UndrilledError | None:
    """What kept the drill from its end; None where it is the session itself that came back wrong, or not at all."""
    causes, said = list(_causes(error)), tell(error)
    if any(map(_is_full, causes)):
        return undrilled(
            session,
            f"there was no room left. {said}",
            f"Make room in {session.path.parent}, where it is dumped a second time, and at {scratch.place}.",
        )
    if any(map(_is_lost, causes)) or not scratch.lives():
        return undrilled(
            session,
            f"the server of the scratch database was lost ({scratch.place}). {said}",
            "See its log, or its container's, for why it ended.",
        )
    killed = [one for one in causes if isinstance(one, ProcessError) and one.returncode > BY_A_SIGNAL]
    if killed:
        by = f"{killed[0].argv[0]} was ended by signal {killed[0].returncode - BY_A_SIGNAL}"
        return undrilled(session, by, "See who did that: where memory is short, the system does.")
    # A file of the session that is not there is the session's own fault.
    if any(isinstance(one, OSError) and not isinstance(one, FileNotFoundError) for one in causes):
        return undrilled(session, said, "See to that.")
    return None


def tell(error: BaseException) -> str:
    """What an error says of its cause alone."""
    if isinstance(error, CDCBackupError):
        return error.what
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, ProcessError):
        return any(words in error.stderr for words in _NO_ROOM)
    return isinstance(error, psycopg.errors.DiskFull) or (isinstance(error, OSError) and error.errno in _FULL)


def _is_lost(error: BaseException) -> bool:
    match error:
        case ProcessError(argv=(str() as program, *_)):
            ended = program.endswith("psql") and error.returncode == CONNECTION_LOST
            return ended or any(words in error.stderr for words in _CUT_OFF)
        case psycopg.Error(sqlstate=str() as state):
            return state[:2] in _OF_THE_SERVER
        case _:
            # Without a cause it is a connection that could not be made.
            return isinstance(error, psycopg.OperationalError) or (
                isinstance(error, DatabaseError) and error.__cause__ is None
            )
