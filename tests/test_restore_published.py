"""What a subscriber gets from a restore: the rows that come back, under their table's name, and no others."""

from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import pytest

from backup.postgres.embedded import DISPOSABLE, Server, start_server
from backup.session.restore import RestoreMode
from tests.lacking import lacking
from tests.restoring import bring_back, everything
from tests.servers import FreshDatabase, find_binaries, fresh_database, major
from tests.sessions import restore_well, write
from tests.test_delta import Guarded, guarded

TABLES = """
    create table _cdc_k (id int primary key, t text); insert into _cdc_k values (1, 'a'), (2, 'b'), (3, 'c');
    create table _cdc_n (t text); alter table _cdc_n replica identity full;
    insert into _cdc_n values ('a'), ('a'), ('b');
"""
PUBLICATIONS: dict[str, LiteralString] = {
    "all tables": "create publication p for all tables",
    "a schema's": "create publication p for tables in schema public",
    "these tables": "create publication p for table _cdc_k, _cdc_n",
}
_SCHEMAS_PUBLISHED = 15


@pytest.fixture(scope="module", params=["embedded", "machine"])
def logical_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that can tell its changes to a subscriber."""
    binaries = find_binaries(request.param)
    if binaries is None:
        lacking(f"what a subscriber gets (no {request.param} PostgreSQL)")
    # A subscriber is told what is flushed, and only a synchronous commit flushes.
    with start_server(binaries, settings={**DISPOSABLE, "wal_level": "logical", "synchronous_commit": "on"}) as server:
        yield server


@pytest.fixture
def published(logical_server: Server, request: pytest.FixtureRequest) -> Iterator[FreshDatabase]:
    """A database whose CDC tables are published, as those of all tables unless the test says how."""
    how = getattr(request, "param", "all tables")
    with fresh_database(logical_server) as database:
        if how == "a schema's" and major(logical_server.binaries) < _SCHEMAS_PUBLISHED:
            lacking(f"a publication of a schema (PostgreSQL before {_SCHEMAS_PUBLISHED})")
        database.execute(TABLES)
        database.execute(PUBLICATIONS[how])
        yield database


class Subscriber:
    """Whoever reads a slot of the publication `p`, in protocol 1."""

    def __init__(self, database: FreshDatabase) -> None:
        self._database = database
        database.rows("select pg_create_logical_replication_slot('s', 'pgoutput')::text")

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *error: object) -> None:
        self._database.rows("select pg_drop_replication_slot('s')::text")

    def got(self) -> list[tuple[str, str, str]]:
        """What came since: `I`, `U`, `D` or `T`, the table's name, and its row's first value."""
        names: dict[bytes, str] = {}
        changes = []
        for (message,) in self._database.rows(
            "select data from pg_logical_slot_get_binary_changes('s', null, null,"
            " 'proto_version', '1', 'publication_names', 'p')"
        ):
            kind, oid = message[:1].decode(), message[1:5]
            if kind == "R":
                schema, name = (part.decode() for part in message[5:].split(b"\0")[:2])
                names[oid] = name if schema == "public" else f"{schema}.{name}"
            elif kind in "IU":
                # A byte for what follows, two for the number of columns, one for the first's sort, four for its length.
                length = int.from_bytes(message[9:13])
                changes.append((kind, names[oid], message[13 : 13 + length].decode()))
            elif kind in "DT":
                changes.append((kind, names[oid], ""))
        return changes


@pytest.mark.parametrize("published", PUBLICATIONS, indirect=True)
def test_a_subscriber_gets_every_change_that_is_made(published: FreshDatabase) -> None:
    with Subscriber(published) as subscriber:
        published.execute("insert into _cdc_k values (4, 'd'); delete from _cdc_k where id = 1")
        assert subscriber.got() == [("I", "_cdc_k", "4"), ("D", "_cdc_k", "")]


@pytest.mark.parametrize("mode", RestoreMode)
def test_a_subscriber_gets_nothing_where_nothing_is_missing(
    published: FreshDatabase, tmp_path: Path, mode: RestoreMode
) -> None:
    session = write(published, tmp_path)
    with Subscriber(published) as subscriber:
        bring_back(published, session, mode=mode)
        assert subscriber.got() == []


@pytest.mark.parametrize("published", PUBLICATIONS, indirect=True)
def test_a_subscriber_gets_just_the_rows_that_were_missing_under_their_tables_names(
    published: FreshDatabase, tmp_path: Path
) -> None:
    session = write(published, tmp_path)
    before = everything(published)
    published.execute("delete from _cdc_k where id = 2; delete from _cdc_n where t = 'b'")
    with Subscriber(published) as subscriber:
        bring_back(published, session)
        assert subscriber.got() == [("I", "_cdc_k", "2"), ("I", "_cdc_n", "b")]
    assert everything(published) == before


@pytest.mark.parametrize("published", PUBLICATIONS, indirect=True)
def test_a_subscriber_gets_nothing_from_files_by_hand_where_nothing_is_missing(
    published: FreshDatabase, tmp_path: Path
) -> None:
    session = write(published, tmp_path)
    with Subscriber(published) as subscriber:
        restore_well(published, session.path / "restore.sql")
        restore_well(published, session.path / "_cdc_k.sql")
        assert subscriber.got() == []


@pytest.fixture
def saved(published: FreshDatabase, tmp_path: Path) -> Guarded:
    """A session with a delta of both sorts: rows that are added, and rows that are merged by key."""
    whole = guarded(published, tmp_path)
    published.execute("insert into _cdc_n values ('new')")
    whole.save("_cdc_n")
    published.execute("insert into _cdc_k values (4, 'd'); update _cdc_k set t = 'B' where id = 2")
    whole.save("_cdc_k")
    return whole


@pytest.mark.parametrize("mode", RestoreMode)
def test_a_subscriber_gets_nothing_of_a_delta_whose_rows_are_there(saved: Guarded, mode: RestoreMode) -> None:
    with Subscriber(saved.database) as subscriber:
        bring_back(saved.database, saved.session, mode=mode)
        assert subscriber.got() == []


def test_a_subscriber_gets_just_the_rows_of_a_delta_that_were_missing(saved: Guarded) -> None:
    saved.database.execute("delete from _cdc_k where id in (1, 4)")
    with Subscriber(saved.database) as subscriber:
        bring_back(saved.database, saved.session)
        assert sorted(subscriber.got()) == [("I", "_cdc_k", "1"), ("I", "_cdc_k", "4")]


def test_what_is_made_of_a_table_that_is_gone_comes_to_a_subscriber_under_its_name(saved: Guarded) -> None:
    expected = saved.state()
    saved.database.execute("drop table _cdc_k, _cdc_n")
    with Subscriber(saved.database) as subscriber:
        bring_back(saved.database, saved.session)
        assert {name for _, name, _ in subscriber.got()} <= {"_cdc_k", "_cdc_n"}
    assert saved.state() == expected


def test_no_table_is_unlogged_after_a_restore(saved: Guarded) -> None:
    saved.database.execute("drop table _cdc_n; truncate _cdc_k")
    bring_back(saved.database, saved.session)
    bring_back(saved.database, saved.session, mode=RestoreMode.REPLACE)
    bring_back(saved.database, saved.session, mode=RestoreMode.ASIDE)
    assert saved.database.rows("""
        select relpersistence::text, count(*)::int from pg_class where relkind = 'r' and relname ~ '^_cdc_' group by 1
    """) == [("p", 4)]
