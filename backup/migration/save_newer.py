"""What the backup's snapshot did not show of a table, saved at the moment when a statement is about to take it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from backup.errors import BackupError
from backup.migration.guard import Saved
from backup.postgres.fingerprint import count_and_fingerprint
from backup.postgres.newer import Horizon, newer_than
from backup.postgres.snapshot import Count
from backup.postgres.tables import Column, Connection, Kind, Table, shape
from backup.session.delta import DeltaWriter, copied_columns


@dataclass(frozen=True, kw_only=True)
class _Newer:
    """What is new in a table by now: the rows that `where` chooses; `there` are all that it has.

    They are all its rows, or merged by key, where something else has changed than that they came (`merged`).
    """

    where: sql.Composable
    rows: int
    fingerprint: str
    merged: bool
    columns: tuple[Column, ...]
    there: int = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class SaveNewer:
    """Saves tables into the delta of a session; `counts` and `horizon` are those of its snapshot.

    Until a table is let go, all that it has is there to be saved again: so what is saved then takes the place of what
    was saved before, and a row that was updated meanwhile does not come back in both versions.
    """

    writer: DeltaWriter
    horizon: Horizon
    counts: Mapping[int, Count]
    _saved: dict[int, tuple[_Newer, Saved]] = field(default_factory=dict)
    _held_since: set[int] = field(default_factory=set)

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
        newer = self._look(connection, [(table, now)])[table.oid]
        before = self._saved.get(table.oid)
        if before is None or before[0] != newer:
            before = (newer, self._save(connection, table, now, newer))
            self._note({table.oid: before})
        return replace(before[1], there=newer.there)

    def ahead(self, connection: Connection, tables: Sequence[tuple[Table, Table]]) -> None:
        """Save what is new in tables, unless that was done for the first; what fails is left for when one is taken."""
        new = [(t, now) for t, now in tables if t.kind is Kind.ORDINARY and t.oid not in self._saved]
        new = [(table, now) for table, now in new if table.oid in self.counts and shape(now) == shape(table)]
        if tables[0][0].oid in self._saved or not new:
            return
        try:
            with connection.transaction(), self.writer.together():
                newer = self._look(connection, new)
                saved = {t.oid: (newer[t.oid], self._save(connection, t, now, newer[t.oid])) for t, now in new}
        except (BackupError, psycopg.Error):
            return
        self._note(saved)

    def let_go(self, oids: Iterable[int]) -> None:
        """What was saved of these tables is all that there is of it: a statement may have taken it by now."""
        self._held_since.difference_update(oids)

    def _note(self, saved: Mapping[int, tuple[_Newer, Saved]]) -> None:
        self._saved.update(saved)
        self._held_since.update(oid for oid, (_, done) in saved.items() if done.rows and not done.missed)

    def _look(self, connection: Connection, tables: Sequence[tuple[Table, Table]]) -> dict[int, _Newer]:
        """What is new in each, by OID."""
        asked = _ask(connection, [(now, newer_than(self.horizon, table)) for table, now in tables])
        looked = {}
        for table, now in tables:
            known, where, (rows, fingerprint, file) = table.oid in self.counts, None, asked[table.oid]
            rewritten = known and file != self.counts[table.oid].filenode
            # Without a key nothing tells a row that was copied, by ALTER or VACUUM FULL, from one that is new.
            whole = known and not table.key and (rewritten or self.horizon.noted[table.oid] is None)
            if whole:
                where = sql.SQL("true")
                rows, fingerprint, _ = _ask(connection, [(now, where)])[table.oid]
            added = known and self.counts[table.oid].rows + _rows(fingerprint) == rows and not rewritten
            looked[table.oid] = _Newer(
                where=where or newer_than(self.horizon, table),
                rows=_rows(fingerprint),
                fingerprint=fingerprint,
                merged=whole or (bool(table.key) and not added),
                columns=now.columns,
                there=rows,
            )
        return looked

    def _save(self, connection: Connection, table: Table, now: Table, newer: _Newer) -> Saved:
        instead, known = table.oid in self._held_since, table.oid in self.counts
        if not newer.rows and not instead:
            return Saved(rows=0)
        if known and shape(now) == shape(table):
            with self._copied(connection, now, copied_columns(table), newer.where) as chunks:
                self.writer.save(
                    table,
                    chunks,
                    rows=newer.rows,
                    fingerprint=newer.fingerprint,
                    merged=newer.merged,
                    instead=instead,
                )
            return Saved(rows=newer.rows)
        columns = copied_columns(now)
        with self._copied(connection, now, columns, newer.where) as chunks:
            file = self.writer.keep_aside(now, columns, chunks)
        why = "its columns were changed meanwhile" if known else "it was made after the backup"
        missed = f"{why}, so no restore brings back by itself what {file} in the delta holds"
        return Saved(rows=newer.rows, missed=missed)

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


def _ask(
    connection: Connection, tables: Sequence[tuple[Table, sql.Composable]]
) -> dict[int, tuple[int, str, int | None]]:
    """How many rows each table has, the fingerprint of those that a condition chooses, and its file; by OID."""
    query = sql.SQL(" union all ").join(
        sql.SQL(
            "select {oid}::pg_catalog.int8, rows, hash, pg_relation_filenode({oid}::pg_catalog.oid)::pg_catalog.int8,"
            " to_regclass({name}) = {oid}::pg_catalog.oid from ({query}) as x (rows, hash)"
        ).format(
            oid=table.oid,
            name=table.identifier.as_string(connection),
            query=count_and_fingerprint(table.identifier, [column.name for column in table.columns], where),
        )
        for table, where in tables
    )
    found = {}
    for oid, rows, fingerprint, file, named in connection.execute(query):
        if not named:  # a schema changes its name without a lock on its tables
            raise BackupError(f"{next(table for table, _ in tables if table.oid == oid)} is another table now")
        found[oid] = (rows, fingerprint, file)
    return found


def _rows(fingerprint: str) -> int:
    return int(fingerprint.partition(":")[0])
