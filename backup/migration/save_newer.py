"""What the backup's snapshot did not show of a table, saved at the moment when a statement is about to take it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from psycopg import sql

from backup.errors import BackupError
from backup.migration.guard import Saved
from backup.postgres.fingerprint import count_and_fingerprint
from backup.postgres.locks import find_standing
from backup.postgres.newer import Horizon, newer_than
from backup.postgres.snapshot import Count
from backup.postgres.tables import Connection, Kind, Table, find_tables_by
from backup.session.delta import DeltaWriter, copied_columns


@dataclass(frozen=True, kw_only=True)
class SaveNewer:
    """Saves tables into the delta of a session; `counts` and `horizon` are those of its snapshot."""

    writer: DeltaWriter
    horizon: Horizon
    counts: Mapping[int, Count]

    def __call__(self, connection: Connection, table: Table, now: Table) -> Saved:
        """Save the rows that are newer; without a key, and rewritten since the snapshot, all of them.

        `rows then + newer rows = rows now` holds if and only if no row of then was updated or deleted. Where it does
        not, the newer rows are merged into those of the backup by their key: new versions take the place of old ones,
        and what was deleted comes back, for it may be the migration that did it.

        Raises:
            BackupError: they could not be written.
        """
        if table.kind is not Kind.ORDINARY:
            return Saved(rows=0)
        [there] = find_tables_by(connection, [table.oid], [])
        known = table.oid in self.counts
        changed = {(c.name, c.type) for c in there.columns} != {(c.name, c.type) for c in table.columns}
        where = newer_than(self.horizon, table)
        rewritten = known and self._file(connection, table) != self.counts[table.oid].filenode
        # Without a key nothing tells a row that was copied, by ALTER or VACUUM FULL, from one that is new.
        whole = known and not table.key and (rewritten or self.horizon.noted[table.oid] is None)
        if whole:
            where = sql.SQL("true")
        rows, fingerprint = self._look(connection, replace(now, columns=there.columns), where)
        added = known and self.counts[table.oid].rows + _rows(fingerprint) == rows and not rewritten
        newer = _rows(fingerprint)
        if not newer:
            return Saved(rows=0)
        if known and not changed:
            with self._copied(connection, now, copied_columns(table), where) as chunks:
                self.writer.save(
                    table, chunks, rows=newer, fingerprint=fingerprint, merged=whole or (bool(table.key) and not added)
                )
            return Saved(rows=newer)
        columns = copied_columns(there)
        with self._copied(connection, now, columns, where) as chunks:
            file = self.writer.keep_aside(now, columns, chunks)
        why = "its columns were changed meanwhile" if known else "it was made after the backup"
        return Saved(rows=newer, missed=f"{why}, so no restore brings back by itself what {file} in the delta holds")

    @contextmanager
    def _copied(
        self, connection: Connection, table: Table, columns: Sequence[str], where: sql.Composable
    ) -> Iterator[Iterator[bytes]]:
        """COPY's text of the rows."""
        query = sql.SQL("copy (select {} from only {} where {}) to stdout").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), table.identifier, where
        )
        with connection.cursor() as cursor, cursor.copy(query) as copied:
            yield map(bytes, copied)

    def _file(self, connection: Connection, table: Table) -> int | None:
        """The file of the table by now: another one since the snapshot, if it was truncated or rewritten."""
        standing = find_standing(connection, [table.oid])
        return standing[table.oid].file if table.oid in standing else None

    def _look(self, connection: Connection, table: Table, where: sql.Composable) -> tuple[int, str]:
        columns = [column.name for column in table.columns]
        name = table.identifier.as_string(connection)
        query = count_and_fingerprint(table.identifier, columns, where)
        row = connection.execute(
            sql.SQL("select rows, hash, to_regclass({}) = {}::pg_catalog.oid from ({}) as x (rows, hash)").format(
                name, table.oid, query
            )
        ).fetchone()
        if row is None or not row[2]:  # a schema changes its name without a lock on its tables
            raise BackupError(f"{table} is another table now")
        return row[0], row[1]


def _rows(fingerprint: str) -> int:
    return int(fingerprint.partition(":")[0])
