"""How much text the rows of tables are: what a dump of them takes on a disk, from a sample."""

from psycopg import sql

from backup.postgres.snapshot import Count, Snapshot
from backup.postgres.tables import Table

_ROWS = 2000
_BYTES = 32 * 1024 * 1024
"""So many of a table are read at most, by its size on the server."""

_TABLES_A_QUERY = 500
_ROUND_A_ROW, _ROUND_A_COLUMN = 3, 3
"""What an INSERT has around a row and around a value, and the text of a record has not."""


def estimate_text(snapshot: Snapshot) -> dict[int, int]:
    """The bytes of each table's rows as INSERT text, by OID; exact where the sample is the whole table, or nearly.

    Sizes on the server do not tell: what is compressed there may be ten times as long, and what is dead is not dumped.
    """
    counts = snapshot.counts
    tables = {table.oid: table for table in snapshot.tables if table.oid in counts and counts[table.oid].rows}
    sizes, oids = dict.fromkeys(counts, 0), list(tables)
    for start in range(0, len(oids), _TABLES_A_QUERY):
        samples = [_sample(tables[oid], counts[oid]) for oid in oids[start : start + _TABLES_A_QUERY]]
        for oid, width in snapshot.connection.execute(sql.SQL(" union all ").join(samples)):
            around = _ROUND_A_ROW + _ROUND_A_COLUMN * len(tables[oid].columns)
            sizes[oid] = round((float(width) + around) * counts[oid].rows)
    return sizes


def _sample(table: Table, count: Count) -> sql.Composed:
    wanted = max(1, min(_ROWS, _BYTES * count.rows // max(count.bytes, 1)))
    # Rows from all over the table: what was written last may be wider than what was written first.
    percent = min(100.0, 100.0 * wanted / count.rows)
    sample = sql.SQL("select (r.*)::pg_catalog.text as t from only {} r tablesample bernoulli ({}) repeatable (1)")
    whole = sql.SQL("select (r.*)::pg_catalog.text as t from only {} r limit 1")
    return sql.SQL(
        "select {oid}::pg_catalog.int8, coalesce("
        "(select pg_catalog.avg(pg_catalog.octet_length(t)) from ({sample}) s),"
        " (select pg_catalog.octet_length(t) from ({whole}) s))"
    ).format(
        oid=table.oid,
        sample=sample.format(table.identifier, percent),
        whole=whole.format(table.identifier),
    )
