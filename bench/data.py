"""The tables of the cases."""

from collections.abc import Sequence

from psycopg import sql

from bench.ground import Ground

BIG = {"_cdc_users": 600_000, "_cdc_roles": 400_000, "_cdc_permissions": 200_000}
"""Rows of the three tables that are about 700 MB of INSERT text."""

_COLUMNS = """(
    id bigint generated always as identity primary key,
    operation text not null,
    changed_at timestamptz not null default now(),
    changed_by text,
    row_id bigint not null,
    old jsonb,
    new jsonb
)"""

_PERSON = """jsonb_build_object('id', g::bigint * 7919 % 100003, 'name', (array['Ada Lovelace', 'Grace Hopper',
    'Alan Turing', 'Edsger Dijkstra', 'Barbara Liskov'])[g % 5 + 1], 'email', 'person' || g::bigint * 7919 % 100003
    || '@example.com', 'token', md5(g::text), 'active', true, 'roles', jsonb_build_array('reader', 'role ' || g % 11),
    'note', 'it''s a note, with "quotes" and ' || repeat('words ', g % 21), 'logins', g % 1000 + {more})"""

_ROWS = f"""
insert into {{table}} (operation, changed_at, changed_by, row_id, old, new)
select case when g % 10 > 1 then 'UPDATE' when g % 10 = 1 then 'INSERT' else 'DELETE' end,
       timestamptz '2025-01-01 00:00+00' + g * interval '7 seconds', 'user_' || g % 97, g::bigint * 7919 % 100003,
       case when g % 10 <> 1 then {_PERSON.format(more=0)} end, case when g % 10 > 0 then {_PERSON.format(more=1)} end
from generate_series(1, {{count}}) as g
"""
"""Eight of ten rows are updates, whose `new` differs from `old` in one value."""


def make_big(ground: Ground, rows: dict[str, int] | None = None) -> None:
    """Tables as triggers fill them: an identity, what was done and when, the row before and after as jsonb."""
    ground.new_database()
    with ground.connect() as connection:
        for name, count in (rows or BIG).items():
            table = sql.Identifier(name)
            connection.execute(sql.SQL("create table {} " + _COLUMNS).format(table))
            connection.execute(sql.SQL(_ROWS).format(table=table, count=ground.rows(count)))
            connection.execute(
                sql.SQL("create index {} on {} (changed_at)").format(sql.Identifier(f"{name}_at"), table)
            )
    settle(ground)


def make_many(ground: Ground, tables: int, rows: int, catalog: int) -> Sequence[str]:
    """So many CDC tables of so many rows each, in a catalog of so many tables; the names of the CDC tables."""
    ground.new_database()
    names = [f"_cdc_table_{n:05}" for n in range(tables)]
    statements = [
        f"create table application_{n:05} (id bigint primary key, name text)" for n in range(catalog - tables)
    ]
    with ground.connect() as connection:
        for name in names:
            table = sql.Identifier(name)
            connection.execute(sql.SQL("create table {} " + _COLUMNS).format(table))
            connection.execute(sql.SQL(_ROWS).format(table=table, count=rows))
        # a few at a time, for each holds a lock until its transaction ends
        for start in range(0, len(statements), 500):
            connection.execute(sql.SQL(";").join(map(sql.SQL, statements[start : start + 500])))
    settle(ground)
    return names


def make_wide(ground: Ground, table: str, rows: int, size: int) -> None:
    """A table of rows that are so many bytes each, of a text that does not compress."""
    ground.new_database()
    with ground.connect() as connection:
        connection.execute(sql.SQL("create table {} (id int primary key, content text)").format(sql.Identifier(table)))
        with connection.cursor() as cursor:
            for number in range(rows):
                cursor.execute(
                    sql.SQL(
                        "insert into {} select {}, left(string_agg(md5(g::text || {}), ''), {})"
                        " from generate_series(1, {} / 32 + 1) as g"
                    ).format(sql.Identifier(table), number, f"/{number}", size, size)
                )
    settle(ground)


def settle(ground: Ground) -> None:
    """Bring everything to the disk, with statistics, as it is some time after it was written."""
    ground.execute("vacuum analyze", "checkpoint")
