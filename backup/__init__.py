"""A safety net for PostgreSQL migrations."""

from typing import TYPE_CHECKING, Any

from backup.errors import (
    BackupError,
    CDCBackupError,
    DatabaseError,
    DeclinedError,
    DestroyedError,
    ExitCode,
    InterruptedRunError,
    MigrationError,
    ProcessError,
    RestoreError,
    UsageError,
)

if TYPE_CHECKING:
    from backup.cdc_backup import CDCBackup

__all__ = [
    "BackupError",
    "CDCBackup",
    "CDCBackupError",
    "DatabaseError",
    "DeclinedError",
    "DestroyedError",
    "ExitCode",
    "InterruptedRunError",
    "MigrationError",
    "ProcessError",
    "RestoreError",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    """Import what takes a moment when it is asked for: the recipes import this package to say their names."""
    if name == "CDCBackup":
        from backup.cdc_backup import CDCBackup

        return CDCBackup
    raise AttributeError(f"module 'backup' has no attribute {name!r}")
