"""Whether CDC tables were looked for where they are: to protect nothing is worse than to refuse."""

from backup.errors import UsageError
from backup.postgres.database import Database
from backup.postgres.snapshot import Snapshot
from backup.postgres.tables import Schemas, find_passed_over, find_tables

_NAMED = 5
"""So many tables are named: the warning is one line."""


def refuse_blindness(database: Database, snapshot: Snapshot, *, prefix: str, schemas: Schemas) -> None:
    """Refuse a look in schemas that do not exist, or one that found nothing while there are such tables elsewhere.

    Raises:
        UsageError: which schema is not there, or where the tables are.
    """
    if snapshot.missing_schemas:
        raise UsageError(
            f"{database} has no schema {', '.join(snapshot.missing_schemas)}, which backup.schemas names.",
            untouched="Nothing was backed up or started.",
            remedy="Correct backup.schemas; upper and lower case matter.",
        )
    if snapshot.tables or schemas == "*":
        return
    with database.connect() as connection:
        elsewhere = find_tables(connection, prefix=prefix, schemas="*")
    if elsewhere:
        raise UsageError(
            f"The tables that begin with {prefix!r} are in schemas that backup.schemas does not name: "
            f"{', '.join(map(str, elsewhere))}.",
            untouched="Nothing was backed up or started.",
            remedy='Name those schemas there, or write "*" for all.',
        )


def passed_over(snapshot: Snapshot, *, prefix: str, schemas: Schemas) -> str:
    """The tables that somebody may take for CDC tables and no backup has, in a sentence; empty where there are none.

    Beside tables that were found they are no reason to refuse: they may be of another system.
    """
    found = find_passed_over(snapshot.connection, prefix=prefix, schemas=schemas)
    reasons = {True: "backup.schemas does not name its schema", False: f"its case is another than that of {prefix!r}"}
    named = [f"{schema}.{name} ({reasons[exact]})" for schema, name, exact in found[:_NAMED]]
    more = f", and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return f"Passed over, and in no backup: {', '.join(named)}{more}." if found else ""
