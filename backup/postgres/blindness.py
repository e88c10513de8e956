"""Whether CDC tables were looked for where they are: to protect nothing is worse than to refuse."""

from backup.errors import UsageError
from backup.postgres.database import Database
from backup.postgres.snapshot import Snapshot
from backup.postgres.tables import Schemas, find_tables


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
