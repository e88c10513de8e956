"""What the rows of a table take as text is known beforehand, whatever they take on the server."""

from pathlib import Path

from backup.postgres.text_size import estimate_text
from tests.servers import FreshDatabase
from tests.sessions import snapshot, write

TABLES = """
create table _cdc_numbers (a int, b bigint, c numeric);
insert into _cdc_numbers select n, n * 1000, n / 7.0 from generate_series(1, 9000) n;
create table _cdc_bytes (r bytea);
insert into _cdc_bytes select decode(repeat(md5(n::text), 20), 'hex') from generate_series(1, 3000) n;
create table "_cdc_Long" ("A a" text, r jsonb);
insert into "_cdc_Long" select repeat('x', 20000), jsonb_build_object('n', n) from generate_series(1, 300) n;
create table _cdc_dead (a text); insert into _cdc_dead select repeat('y', 500) from generate_series(1, 5000);
delete from _cdc_dead where ctid <> '(0,1)';
create table _cdc_nulls (a int, b text, c text); insert into _cdc_nulls select 1 from generate_series(1, 500);
create table _cdc_none (a int);
"""


def test_the_text_is_as_long_as_was_foreseen(database: FreshDatabase, tmp_path: Path) -> None:
    database.execute(TABLES)
    with snapshot(database) as taken:
        foreseen = estimate_text(taken)
        assert foreseen.keys() == taken.counts.keys()
        # of 300 rows of 20 kB that the server compresses, as of a heap that is nearly all dead
        assert max(taken.counts.values(), key=lambda count: count.bytes).rows == 1
    for table in write(database, tmp_path).manifest.tables:
        assert 0.8 <= (foreseen[table.oid] + 100) / ((table.rows_bytes or 0) + 100) <= 1.25, table.name
