"""What hung on a table and was taken along by its DROP … CASCADE is back with it."""

from pathlib import Path

import pytest
from psycopg import sql

from backup.postgres.embedded import Server
from tests.restoring import bring_back, everything
from tests.servers import FreshDatabase, fresh_database
from tests.sessions import fresh_role, restore, restore_well, write

TABLE = """
    create table users (id int primary key, name text); insert into users values (1, 'a'), (2, 'b');
    create table _cdc_t (id int primary key, op text, n int); insert into _cdc_t values (1, 'I', 1), (2, 'U', 2);
"""

# Each hangs something on _cdc_t; {role} is a role of the server.
HANGING = {
    "views over views": """
        create view a as select id, op from _cdc_t; create view b as select id from a where op = 'I';
        create view c as select a.id, users.name from a join users using (id); comment on view c is 'it''s';
        comment on column c.name is 'n'; grant select on a to {role}; grant select (id) on c to {role};
        alter view b owner to {role}; create view d with (security_barrier) as select * from c with check option;
    """,
    "views made again, of later ones": """
        create view a as select 1 as id; create view b as select id from _cdc_t;
        create or replace view a as select id from b;
    """,
    "materialized views": """
        create materialized view m as select op, count(*) as n from _cdc_t group by op; create unique index on m (op);
        create materialized view "of m" as select n from m; create materialized view empty as select * from m
        with no data; create index i on m (n) where n > 1; comment on materialized view m is 'x';
        grant select on m to {role};
    """,
    "foreign keys of other tables": """
        create table orders (id int, t int constraint "it's" references _cdc_t on delete set null deferrable);
        insert into orders values (1, 1), (2, null); comment on constraint "it's" on orders is 'a key';
        create table unproven (t int); insert into unproven values (99);
        alter table unproven add foreign key (t) references _cdc_t not valid;
    """,
    "rules of other tables": """
        create rule "r'" as on delete to users do also delete from _cdc_t where id = old.id;
        comment on rule "r'" on users is 'a rule';
        create view v as select * from users;
        create rule w as on insert to v do instead insert into _cdc_t (id) values (new.id);
    """,
    "policies of other tables": """
        alter table users enable row level security;
        create policy "p'" on users as restrictive for select to {role}, public
            using (exists (select from _cdc_t c where c.id = users.id));
        create policy q on users for insert with check ((select count(*) from _cdc_t) > 0);
    """,
    "functions": """
        create function takes(_cdc_t) returns int language sql as 'select $1.id';
        create function gives() returns setof _cdc_t language sql as 'select * from _cdc_t';
        create function counts() returns bigint language sql begin atomic select count(*) from _cdc_t; end;
        create procedure clears() language sql begin atomic delete from _cdc_t; end;
        create function of_many(_cdc_t[], out a int) language sql security definer as 'select 1';
        comment on function takes is 'it''s'; alter function takes owner to {role};
        revoke execute on function counts from public; grant execute on function counts to {role};
        create aggregate first_of(_cdc_t) (sfunc = coalesce_t, stype = _cdc_t);
    """,
    "a view of a function, a function of a view": """
        create view a as select * from _cdc_t; create function f(a) returns int language sql as 'select $1.id';
        create view b as select f(a) from a; create function g() returns bigint language sql
            begin atomic select count(*) from b; end;
    """,
    "triggers and rules on views": """
        create view v as select id, op from _cdc_t;
        create function note() returns trigger language plpgsql as 'begin return null; end';
        create trigger t instead of insert on v for each row execute function note();
        create rule r as on delete to v do instead nothing; alter view v alter op set default 'I';
    """,
    "what the table itself needs": """
        create function positive(_cdc_t) returns bool language sql immutable as 'select $1.n > 0';
        alter table _cdc_t add constraint positive check (positive(_cdc_t)); create index on _cdc_t (positive(_cdc_t));
    """,
    "rules and policies of its own over views of it": """
        create view v as select id from _cdc_t; alter table _cdc_t enable row level security;
        create policy p on _cdc_t using (id in (select id from v)); comment on policy p on _cdc_t is 'p';
        create rule r as on update to _cdc_t do also select id from v;
    """,
}


@pytest.mark.parametrize("what", HANGING)
def test_what_a_cascade_took_is_back_with_the_table(server: Server, tmp_path: Path, what: str) -> None:
    with fresh_role(server) as role, fresh_database(server) as database:
        database.execute(TABLE)
        database.execute(
            """
            create function coalesce_t(_cdc_t, _cdc_t) returns _cdc_t language sql as 'select coalesce($1, $2)'
        """
            if "aggregate" in HANGING[what]
            else "select"
        )
        database.execute(sql.SQL(HANGING[what].replace("{role}", role)))
        before = everything(database)
        session = write(database, tmp_path)
        database.execute("drop table _cdc_t cascade")
        assert everything(database) != before
        restore_well(database, session.path / "restore.sql")
        assert everything(database) == before
        database.execute("drop table _cdc_t cascade")
        restore_well(database, session.path / "_cdc_t.sql")
        assert everything(database) == before
        assert database.rows("select count(*) from _cdc_t") == [(2,)]


def test_all_of_a_schema_that_was_dropped_is_back(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute("""
        create schema audit; comment on schema audit is 'kept by nobody';
        create type audit.op as enum ('I', 'U'); create domain audit.n as int check (value > 0);
        create sequence audit.numbers start 50;
        create function audit.f(int) returns int language sql immutable as 'select $1';
        create table audit._cdc_t (id serial primary key, op audit.op, n audit.n default nextval('audit.numbers'),
            check (audit.f(n) > 0));
        insert into audit._cdc_t (op) values ('I'), ('U');
        create view audit.v as select * from audit._cdc_t; create view outside as select id from audit._cdc_t;
    """)
    before = everything(database)
    session = write(database, tmp_path)
    database.execute("drop schema audit cascade")
    restore_well(database, session.path / "restore.sql")
    after = everything(database)
    assert [line for line in before if line not in after] == ["COMMENT ON SCHEMA audit IS 'kept by nobody';"]


@pytest.mark.parametrize("recreated", [True, False])
def test_the_schema_public_itself_may_be_gone(database: FreshDatabase, tmp_path: Path, recreated: bool) -> None:
    database.execute(
        TABLE + "create type op as enum ('I'); alter table _cdc_t add p op; create view v as table _cdc_t;"
    )
    before = everything(database)
    session = write(database, tmp_path)
    database.execute("drop schema public cascade")
    if recreated:
        database.execute("create schema public; grant usage on schema public to public")
        database.execute("alter schema public owner to pg_database_owner")
    database.execute("create table if not exists pg_temp.t (a int)")
    restore_well(database, session.path / "restore.sql")
    after = everything(database)
    lost = [line for line in before if line not in after]
    assert not [line for line in lost if "_cdc_t" in line or "op" in line or " v " in line]
    assert lost


def test_a_view_whose_other_table_is_gone_is_named_and_the_rest_is_back(
    database: FreshDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database.execute(TABLE)
    database.execute("""
        create view joined as select c.id, users.name from _cdc_t c join users on users.id = c.n;
        create view alone as select id from _cdc_t; create table orders (t int references _cdc_t);
    """)
    session = write(database, tmp_path)
    assert any("joined" in dependent for dependent in session.manifest.dependents)
    assert "joined" in (session.path / "backup-summary.txt").read_text()
    database.execute("drop table _cdc_t, users, orders cascade")
    bring_back(database, session)
    said = capsys.readouterr().out
    assert "not brought back: view public.joined" in said
    assert 'relation "public.users" does not exist' in said
    assert database.rows("select id from alone order by id") == [(1,), (2,)]
    assert database.rows("select to_regclass('joined')") == [(None,)]


def test_a_key_whose_rows_lost_what_they_point_to_is_back_unproven(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(
        TABLE + "create table orders (t int constraint k references _cdc_t); insert into orders values (1);"
    )
    session = write(database, tmp_path)
    database.execute("drop table _cdc_t cascade; insert into orders values (3)")
    done = restore(database, session.path / "restore.sql")
    assert done.returncode == 0
    assert "came back NOT VALID" in done.stderr
    assert database.rows("select convalidated from pg_constraint where conname = 'k'") == [(False,)]


def test_what_hangs_on_a_table_that_was_not_chosen_stays_away(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(TABLE)
    database.execute("""
        create table _cdc_u (id int); insert into _cdc_u values (1); create view over_u as table _cdc_u;
        create view over_both as select t.id from _cdc_t t, _cdc_u;
    """)
    session = write(database, tmp_path)
    database.execute("drop view over_u, over_both; drop table _cdc_t")
    bring_back(database, session, "_cdc_t")
    assert database.rows("select to_regclass('over_u'), to_regclass('over_both') is null") == [(None, False)]
