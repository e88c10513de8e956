"""What the backup's snapshot did not show of a table, saved at the moment when a statement is about to take it."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from backup.migration.guard import Saved
from backup.postgres.fingerprint import count_and_fingerprint
from backup.postgres.newer import Horizon, newer_than
from backup.postgres.snapshot import Count
from backup.postgres.tables import Connection, Kind, Table, same_columns
from backup.session.delta import DeltaWriter, copied_columns


@dataclass(frozen=True, kw_only=True)
class SaveNewer:
    """Saves tables into the delta of a session; `counts` and `horizon` are those of its snapshot."""

    writer: DeltaWriter
    horizon: Horizon
    counts: Mapping[int, Count]

    def __call__(self, connection: Connection, table: Table, now: Table, rewritten: bool) -> Saved:
        """Save the rows that are newer; the whole table where others were changed since, so that they alone are not it.

        `rows then + newer rows = rows now` holds if and only if no row of then was updated or deleted.

        Raises:
            BackupError: they could not be written.
        """
        if table.kind is not Kind.ORDINARY:
            return Saved(rows=0)
        if not same_columns(connection, table):
            return Saved(rows=0, missed="its columns were changed, so what was written to it after that was not saved")
        where = newer_than(self.horizon, table)
        rows, fingerprint = self._look(connection, now, where)
        newer = _rows(fingerprint)
        whole = rewritten or self.counts[table.oid].rows + newer != rows
        if whole:
            where = sql.SQL("true")
            newer, fingerprint = self._look(connection, now, where)
        if newer:
            columns = sql.SQL(", ").join(map(sql.Identifier, copied_columns(table)))
            query = sql.SQL("copy (select {} from only {} where {}) to stdout").format(columns, now.identifier, where)
            with connection.cursor().copy(query) as copied:
                self.writer.save(table, map(bytes, copied), rows=newer, fingerprint=fingerprint, whole=whole)
        return Saved(rows=newer)

    def _look(self, connection: Connection, table: Table, where: sql.Composable) -> tuple[int, str]:
        columns = [column.name for column in table.columns]
        row = connection.execute(count_and_fingerprint(table.identifier, columns, where)).fetchone()
        assert row is not None  # noqa: S101 - an aggregate has one row
        return row[0], row[1]


def _rows(fingerprint: str) -> int:
    return int(fingerprint.partition(":")[0])
