"""What `pg_dump -t` leaves out of tables: their schemas, publications, extended statistics."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from psycopg import sql

from backup.postgres.tables import Connection, Table

_SCHEMAS = """
select n.nspname::text, r.rolname::text,
       (select array_agg(x.privilege_type || ' ' || coalesce(g.rolname, '')) from aclexplode(n.nspacl) x
        left join pg_roles g on g.oid = x.grantee where x.grantee <> n.nspowner)
from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = any(%s)
"""

_STATISTICS = """
select x.stxrelid::int8, s.statement
from pg_statistic_ext x join pg_namespace n on n.oid = x.stxnamespace,
     format('%%I.%%I', n.nspname, x.stxname) as name,
     unnest(array[
         pg_get_statisticsobjdef(x.oid),
         -- -1, and null from PostgreSQL 17 on, is the server's default.
         case when x.stxstattarget >= 0
             then format('ALTER STATISTICS %%s SET STATISTICS %%s', name, x.stxstattarget) end,
         format('COMMENT ON STATISTICS %%s IS %%L', name, obj_description(x.oid, 'pg_statistic_ext'))
     ]) with ordinality as s (statement, place)
where x.stxrelid = any(%s::oid[])
  and (s.place < 3 or obj_description(x.oid, 'pg_statistic_ext') is not null) and s.statement is not null
order by x.oid, s.place
"""

_PUBLICATIONS = """
select r.prrelid::int8, p.pubname::text, {columns}, {filter}
from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where r.prrelid = any(%s::oid[]) order by p.pubname
"""


def schema_statements(connection: Connection, tables: Sequence[Table]) -> dict[str, tuple[str, ...]]:
    """The statements that give each schema of the tables to its owner, and grant what was granted on it."""
    names = sorted({table.schema for table in tables})
    statements: dict[str, tuple[str, ...]] = {}
    for name, owner, grants in connection.execute(_SCHEMAS, [names]):
        schema = sql.Identifier(name)
        made = [sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(schema, sql.Identifier(owner))]
        for grant in grants or ():
            privilege, _, role = grant.partition(" ")
            grantee = sql.Identifier(role) if role else sql.SQL("PUBLIC")
            made.append(sql.SQL("GRANT {} ON SCHEMA {} TO {}").format(sql.SQL(privilege), schema, grantee))
        statements[name] = tuple(statement.as_string(connection) for statement in made)
    return statements


def statistics_statements(connection: Connection, tables: Sequence[Table]) -> dict[int, tuple[str, ...]]:
    """The statements that make each table's extended statistics, and their comments, by OID."""
    return _grouped(connection.execute(_STATISTICS, [[table.oid for table in tables]]))


def publication_statements(connection: Connection, tables: Sequence[Table]) -> dict[int, tuple[str, ...]]:
    """The statements that make each table a member of its publications again, by OID."""
    by_oid = {table.oid: table for table in tables}
    listed = connection.info.server_version >= 150000  # column lists and row filters exist since then
    query = sql.SQL(_PUBLICATIONS).format(
        columns=sql.SQL(
            "(select array_agg(a.attname::text order by a.attnum) from pg_attribute a"
            " where a.attrelid = r.prrelid and a.attnum = any(r.prattrs::int2[]))"
            if listed
            else "null"
        ),
        filter=sql.SQL("pg_get_expr(r.prqual, r.prrelid)" if listed else "null"),
    )
    statements = []
    for oid, publication, columns, condition in connection.execute(query, [list(by_oid)]):
        statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}{}{}").format(
            sql.Identifier(publication),
            by_oid[oid].identifier,
            sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL(""),
            # The server's own text of the condition, which it printed to be read again.
            sql.SQL(" WHERE ({})").format(sql.SQL(condition)) if condition else sql.SQL(""),
        )
        statements.append((oid, statement.as_string(connection)))
    return _grouped(statements)


def _grouped(rows: Iterable[tuple[int, str]]) -> dict[int, tuple[str, ...]]:
    grouped = defaultdict(list)
    for oid, statement in rows:
        grouped[oid].append(statement)
    return {oid: tuple(statements) for oid, statements in grouped.items()}
