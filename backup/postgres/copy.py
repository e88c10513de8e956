"""A whole database's definitions, and the rows that matter, in a scratch database."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import psycopg
from psycopg import sql

from backup.errors import BackupError
from backup.postgres.clients import Clients, argument, quoted
from backup.postgres.database import Database
from backup.postgres.snapshot import count_rows
from backup.postgres.tables import Connection, Table, find_tables_by

BUDGET = 32 * 1024 * 1024
"""Bytes of tables, as they lie on the server, that are copied whole although nobody asked for them."""

VERSION_TABLES = frozenset(
    (
        *("__drizzle_migrations", "alembic_version", "_prisma_migrations", "schema_migrations", "ar_internal_metadata"),
        *("knex_migrations", "knex_migrations_lock", "SequelizeMeta", "flyway_schema_history", "goose_db_version"),
        *("databasechangelog", "databasechangeloglock", "django_migrations", "migrations", "typeorm_metadata"),
        *("pgmigrations", "mikro_orm_migrations", "kysely_migration", "kysely_migration_lock"),
    )
)
"""Where migration tools keep what they have run already: without its rows they would begin from the start."""

_COMMAND_LINE = 512 * 1024
"""Bytes of options that every system takes, with the environment beside them: half of what macOS does."""
_NAMES_A_PATTERN = 500

# The nearer to a CDC table and the smaller, the earlier: a budget that is used up leaves out what matters least.
_OTHERS = """
with recursive near (oid) as (
    select unnest(%(tables)s::oid[])
  union
    select c.confrelid from pg_constraint c join near on near.oid = c.conrelid where c.contype = 'f'
)
select c.oid::int8, n.nspname::text, c.relname::text, pg_table_size(c.oid)::int8,
       has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT')
           and not row_security_active(c.oid)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.relpersistence <> 't' and c.oid <> all(%(tables)s::oid[])
  and n.nspname <> 'information_schema' and not starts_with(n.nspname::text, 'pg_')
  and not exists (select from pg_depend d
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
order by c.oid not in (select oid from near), pg_table_size(c.oid), c.oid
"""

# What a migration could trip over if it were not there, by name; what an extension brings is left to the extension.
_LISTING = """
with schemas as (
    select oid, nspname::text as name from pg_namespace
    where nspname <> 'information_schema' and not starts_with(nspname::text, 'pg_')
), ours (classid, objid) as (
    select 'pg_class'::regclass::oid, oid from pg_class union all select 'pg_proc'::regclass, oid from pg_proc
    union all select 'pg_type'::regclass, oid from pg_type
  except
    select classid, objid from pg_depend where deptype = 'e'
), relations as (
    select c.oid, c.relkind, s.name as schema, c.relname::text as name
    from pg_class c join schemas s on s.oid = c.relnamespace
    join ours on ours.classid = 'pg_class'::regclass and ours.objid = c.oid
    where c.relpersistence <> 't'
)
select format('schema %%s', name) from schemas
union all
select format('%%s %%s.%%s', case when relkind in ('v', 'm') then 'view' when relkind = 'S' then 'sequence'
                            when relkind in ('i', 'I') then 'index' else 'table' end, schema, name)
from relations
union all
select format('column %%s of %%s.%%s', a.attname, r.schema, r.name)
from relations r join pg_attribute a on a.attrelid = r.oid
where r.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
union all
select format('constraint %%s of %%s.%%s', c.conname, r.schema, r.name)
from relations r join pg_constraint c on c.conrelid = r.oid where c.contype in ('c', 'f', 'p', 'u', 'x')
union all
select format('trigger %%s of %%s.%%s', t.tgname, r.schema, r.name)
from relations r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
union all
select format('type %%s.%%s', s.name, t.typname) from pg_type t join schemas s on s.oid = t.typnamespace
join ours on ours.classid = 'pg_type'::regclass and ours.objid = t.oid where t.typtype in ('e', 'd', 'r')
union all
select format('function %%s.%%s(%%s)', s.name, p.proname, pg_get_function_identity_arguments(p.oid))
from pg_proc p join schemas s on s.oid = p.pronamespace
join ours on ours.classid = 'pg_proc'::regclass and ours.objid = p.oid
"""

# What a migration calls, or fires, need not be in its own text.
_REACHING = """
select format('the foreign server %s', srvname) from pg_foreign_server
union all
select format('the extension %s', extname) from pg_extension where extname = 'dblink'
union all
select format('the function %s', p.oid::regprocedure)
from pg_proc p join pg_language l on l.oid = p.prolang
where p.pronamespace <> 'pg_catalog'::regnamespace and l.lanname <> 'c'
  and (p.prosrc ilike '%dblink%' or l.lanispl and not l.lanpltrusted)
order by 1
"""

_FOREIGN_KEYS = """
select n.nspname::text, r.relname::text, c.conname::text, pg_get_constraintdef(c.oid)
from pg_constraint c join pg_class r on r.oid = c.conrelid join pg_namespace n on n.oid = r.relnamespace
where c.contype = 'f' and c.conparentid = 0
"""

_SETTINGS = """
select s.setrole <> 0, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
from pg_db_role_setting s, unnest(s.setconfig) c
where s.setdatabase = (select oid from pg_database where datname = current_database())
  and s.setrole in (0, (select oid from pg_roles where rolname = current_user))
order by 1
"""

_COLUMNS = """
select attrelid::int8, array_agg(attname::text order by attnum) from pg_attribute
where attrelid = any(%s::oid[]) and attnum > 0 and not attisdropped and attgenerated = '' group by attrelid
"""


class _Other(NamedTuple):
    oid: int
    schema: str
    name: str
    bytes: int
    readable: bool

    def is_one_of(self, names: Sequence[str]) -> bool:
        return self.name in names or f"{self.schema}.{self.name}" in names


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a copy lacks: the tables `in_part` (schema, name) have their first row alone or, unreadable, none."""

    in_part: tuple[tuple[str, str], ...]
    extensions: tuple[str, ...]


def copy_database(
    source: Database,
    target: Database,
    tables: Sequence[Table],
    *,
    also: Sequence[str] | Literal["*"],
    clients: Clients,
    lock_timeout: float,
) -> Copied:
    """Copy every definition into an empty database, with the rows of `tables`, and of others within `BUDGET`.

    Rows are there before triggers and constraints are. Of a table beyond the budget there is one row, because
    whether a table has any decides what some tools do. A foreign key whose other rows are missing for that is
    made NOT VALID: TRUNCATE and DELETE follow it all the same.

    Args:
        source: what is copied, at one moment; it is only read.
        target: an empty database.
        tables: the CDC tables of the source.
        also: the other tables that are copied whole whatever their size; names, or `schema.name`, or all.
        clients: whose pg_dump and psql run.
        lock_timeout: seconds that pg_dump waits for a table that somebody has locked.

    Raises:
        BackupError: the copy is not what the source is, or would reach out to other databases.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cdc-backup-") as folder,
        source.connect() as here,
        target.connect() as there,
    ):
        _refuse_foreign(here)
        here.execute("begin isolation level repeatable read, read only")
        moment = here.execute("select pg_export_snapshot()").fetchone()
        others = [_Other(*row) for row in here.execute(_OTHERS, {"tables": [table.oid for table in tables]})]
        in_part = _beyond_budget(others, also)

        def load(*options: str) -> None:
            file = Path(folder) / "definitions.sql"
            clients.pg_dump(
                source,
                *("--no-sync", "--no-blobs", "--no-subscriptions", "--no-tablespaces", "--no-security-labels"),
                f"--lock-wait-timeout={round(lock_timeout * 1000)}",
                f"--snapshot={moment[0] if moment else ''}",
                *options,
                target=file,
            )
            # without ON_ERROR_STOP: owners, grants and the like may fail; what matters is compared in the end
            clients.psql(target, f"\\i {argument(str(file))}\n", [file])

        load("--section=pre-data", "--section=data", *_patterns(in_part))
        readable = [other for other in in_part if other.readable]
        columns = dict(here.execute(_COLUMNS, [[other.oid for other in readable]]).fetchall())
        for other in readable:
            _copy_first_row(here, there, other, columns.get(other.oid, []))
        load("--section=post-data")
        _add_foreign_keys(here, there)
        _copy_settings(here, there)
        extensions = _extensions(here) - _extensions(there)
        lacking = sorted(_listing(here) - _listing(there))
        if lacking:
            without = f" (the scratch server has no extension {', '.join(sorted(extensions))})" if extensions else ""
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise BackupError(f"the scratch database could not be given {', '.join(lacking[:5])}{more}{without}")
        _compare_counts(here, there, tables)
    return Copied(in_part=tuple((other.schema, other.name) for other in in_part), extensions=tuple(sorted(extensions)))


def _refuse_foreign(connection: Connection) -> None:
    found = [line for (line,) in connection.execute(_REACHING)]
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise BackupError(
            f"through {', '.join(found[:5])}{more} a statement on the scratch database could reach another"
        )


def _beyond_budget(others: Sequence[_Other], also: Sequence[str] | Literal["*"]) -> list[_Other]:
    """The tables that are not copied whole."""
    beyond, left = [], BUDGET
    for other in others:
        asked = also == "*" or other.is_one_of(also) or other.name in VERSION_TABLES
        if not other.readable or (not asked and other.bytes > left):
            beyond.append(other)
        elif not asked:
            left -= other.bytes
    return beyond


def _patterns(others: Sequence[_Other]) -> Iterator[str]:
    """Options that leave out the rows of these tables.

    pg_dump looks up a whole name in the index of `pg_class`, and matches each name in the catalog with a pattern of
    several: so only those go into one for which the command line has no room.
    """
    room, left = _COMMAND_LINE, defaultdict(list)
    for other in others:
        schema, name = quoted(other.schema), quoted(other.name)
        option = f"--exclude-table-data={schema}.{name}"
        room -= len(option.encode())
        if room > 0:
            yield option
        else:
            left[schema].append(name)
    for schema, names in left.items():
        for start in range(0, len(names), _NAMES_A_PATTERN):
            yield f"--exclude-table-data={schema}.({'|'.join(names[start : start + _NAMES_A_PATTERN])})"


def _copy_first_row(here: Connection, there: Connection, other: _Other, columns: Sequence[str]) -> None:
    """Best effort: whoever has not even the one row is among the tables that are there in part."""
    if not columns:
        return
    table, listed = sql.Identifier(other.schema, other.name), sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("copy (select {} from only {} limit 1) to stdout").format(listed, table)
    with here.cursor() as source, source.copy(query) as rows:
        row = b"".join(bytes(block) for block in rows)
    if not row:
        return
    try:
        with there.cursor() as target, target.copy(sql.SQL("copy {} ({}) from stdin").format(table, listed)) as copy:
            copy.write(row)
    except psycopg.errors.IntegrityError:
        return


def _add_foreign_keys(here: Connection, there: Connection) -> None:
    """Make, unproven, the foreign keys that could not be made because rows are missing on their other side."""
    made = {row[:3] for row in there.execute(_FOREIGN_KEYS)}
    for schema, table, name, definition in here.execute(_FOREIGN_KEYS).fetchall():
        if (schema, table, name) not in made:
            statement = sql.SQL("alter table {} add constraint {} {} not valid").format(
                sql.Identifier(schema, table), sql.Identifier(name), sql.SQL(definition.removesuffix(" NOT VALID"))
            )
            try:
                there.execute(statement)
            except psycopg.Error as error:
                raise BackupError(f"the foreign key {name} of {schema}.{table} could not be made: {error}") from error


def _copy_settings(here: Connection, there: Connection) -> None:
    """What ALTER DATABASE … SET, also for our role, gives a session of the source: its search_path, for one."""
    database = sql.Identifier(there.info.dbname)
    for ours, name, value in here.execute(_SETTINGS).fetchall():
        # what the scratch database is made with stays: it must be writable
        if name == "default_transaction_read_only":
            continue
        try:
            with there.transaction():
                there.execute("select set_config(%s, %s, true)", [name, value])
                whose = sql.SQL("role current_user in database {}") if ours else sql.SQL("database {}")
                there.execute(
                    sql.SQL("alter {} set {} from current").format(
                        whose.format(database), sql.SQL(".").join(map(sql.Identifier, name.split(".")))
                    )
                )
        except psycopg.Error as error:
            raise BackupError(f"the database's setting {name} could not be given to the scratch database") from error


def _extensions(connection: Connection) -> set[str]:
    return {name for (name,) in connection.execute("select extname::text from pg_extension")}


def _listing(connection: Connection) -> set[str]:
    return {line for (line,) in connection.execute(_LISTING, [])}


def _compare_counts(here: Connection, there: Connection, tables: Sequence[Table]) -> None:
    """Refuse a copy in which a CDC table has not each of its rows."""
    expected = {str(table): count for table, count in _counted(here, tables)}
    copied = find_tables_by(there, [], [(table.schema, table.name) for table in tables])
    found = {str(table): count for table, count in _counted(there, copied)}
    for name, rows in expected.items():
        if found.get(name) != rows:
            raise BackupError(f"{name} has {rows:,} rows, and {found.get(name, 0):,} of them could be copied")


def _counted(connection: Connection, tables: Sequence[Table]) -> Iterator[tuple[Table, int]]:
    counts = count_rows(connection, tables)
    return ((table, counts[table.oid].rows) for table in tables if table.oid in counts)
