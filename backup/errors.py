"""Every error that this package raises on purpose, and the exit code that it ends the process with."""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the end of a recipe tells a script."""

    DONE = 0
    BUG = 1
    USAGE = 2
    BACKUP = 3
    DECLINED = 4
    MIGRATION = 5
    DESTROYED = 6
    RESTORE = 7
    INTERRUPTED = 130


class CDCBackupError(Exception):
    """What went wrong, what was left untouched, and what to do next.

    Args:
        what: one sentence that names the thing.
        untouched: what is as it was before.
        remedy: what the reader can do now.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, what: str, *, untouched: str = "", remedy: str = "") -> None:
        super().__init__(what, untouched, remedy)
        self.what = what
        self.untouched = untouched
        self.remedy = remedy

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.untouched, self.remedy) if line)


class UsageError(CDCBackupError):
    """The command line or the configuration asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class BackupError(CDCBackupError):
    """The backup failed or could not be proven; no migration was started."""

    exit_code = ExitCode.BACKUP


class DatabaseError(BackupError):
    """The database could not be reached, or refused what it was asked."""


class ProcessError(BackupError):
    """A program that was run for us failed.

    Args:
        argv: the program and its arguments; never holds a secret.
        returncode: its exit code; 128 + n when signal n ended it.
        stderr: what it said.
    """

    def __init__(self, argv: tuple[str, ...], returncode: int, stderr: str) -> None:
        said = stderr.strip()
        super().__init__(f"{argv[0]} ended with exit code {returncode}" + (f":\n{said}" if said else "."))
        self.argv = argv
        self.returncode = returncode
        self.stderr = stderr


class UndrilledError(BackupError):
    """A session could not be drilled: nothing new is known of it, and what was known holds."""


class DeclinedError(CDCBackupError):
    """A person said no; the migration was not started."""

    exit_code = ExitCode.DECLINED


class MigrationError(CDCBackupError):
    """The migration command failed, or did not do its work."""

    exit_code = ExitCode.MIGRATION


class DestroyedError(CDCBackupError):
    """The migration destroyed CDC data that was not announced."""

    exit_code = ExitCode.DESTROYED


class RestoreError(CDCBackupError):
    """A restore failed; nothing was changed."""

    exit_code = ExitCode.RESTORE


class InterruptedRunError(CDCBackupError):
    """Somebody pressed Ctrl-C or ended the process; the message says what that left."""

    exit_code = ExitCode.INTERRUPTED
