"""A migration that drops tables one by one while writers write, and tells how long each statement took.

    python -m bench.strikes TABLES FILE

The first TABLES of `_cdc_table_…` are struck, each after a delta of 1,000 rows. Every even one is dropped, every
odd one truncated, for a writer of a table that was dropped meets no table. FILE gets seconds, as JSON.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import psycopg

DELTA = 1_000
_WRITE = "insert into {} (operation, row_id, new) values ('INSERT', 1, '{{}}')"


def _write(struck: list[str], others: list[str], over: threading.Event, seconds: dict[str, list[float]]) -> None:
    """One row at a time: into the table that is being struck, and into one that is not."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        number = 0
        while not over.is_set():
            number += 1
            for kind, tables in (("writer of the table", struck), ("writer of others", others)):
                began = time.perf_counter()
                try:
                    connection.execute(_WRITE.format(tables[-1 if tables is struck else number % len(tables)]))
                except psycopg.errors.UndefinedTable:
                    continue
                seconds[kind].append(time.perf_counter() - began)


def main(count: int, file: Path) -> None:
    """Strike, and write down how long everything took."""
    names = [f"_cdc_table_{n:05}" for n in range(500)]
    struck, over = [names[0]], threading.Event()
    seconds: dict[str, list[float]] = {"DROP": [], "TRUNCATE": [], "writer of the table": [], "writer of others": []}
    writer = threading.Thread(target=_write, args=(struck, names[count:], over, seconds))
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        writer.start()
        for number, name in enumerate(names[:count]):
            struck.append(name)
            connection.execute(
                f"insert into {name} (operation, row_id, new)"
                f" select 'INSERT', g, jsonb_build_object('id', g) from generate_series(1, {DELTA}) g"
            )
            kind = "TRUNCATE" if number % 2 else "DROP"
            began = time.perf_counter()
            connection.execute(f"{kind} {'table ' if kind == 'DROP' else ''}{name}")
            seconds[kind].append(time.perf_counter() - began)
        over.set()
        writer.join()
    file.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
