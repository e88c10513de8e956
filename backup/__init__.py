"""A safety net for PostgreSQL migrations."""

from backup.cdc_backup import CDCBackup
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
