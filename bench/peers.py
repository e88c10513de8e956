"""What a person would use instead, as scripts of the shell."""

from collections.abc import Iterable

INSERTS = "--column-inserts --rows-per-insert=100"
"""The options by which pg_dump writes what a session holds."""


def naive(tables: Iterable[str]) -> str:
    """A count and a pg_dump for each table, one after the other: what the first version of this system did."""
    return (
        f"for table in {' '.join(tables)}; do\n"
        '  psql -XAtqc "select count(*) from $table" >"$table.count"\n'
        '  pg_dump --inserts -t "public.$table" -f "$table.sql"\n'
        "done"
    )


def one_dump(options: str = INSERTS) -> str:
    """One pg_dump of all tables in the directory format, with two jobs."""
    return f"pg_dump -Fd -j2 -Z0 {options} -t 'public._cdc_*' -f dump"


def copy_out(tables: Iterable[str]) -> str:
    """COPY of each table into a file, two at a time: what the server can give."""
    return f"""printf '%s\\n' {" ".join(tables)} | xargs -P2 -I{{}} psql -Xqc 'copy {{}} to stdout' -o {{}}.copy"""


def copy_in(tables: Iterable[str], folder: str) -> str:
    """The tables without anything on them, filled by COPY two at a time: what the server can take."""
    psql = f"psql -Xqc \"\\\\copy {{}} from '{folder}/{{}}.copy'\""
    return f"""psql -Xq -f {folder}/tables.sql
printf '%s\\n' {" ".join(tables)} | xargs -P2 -I{{}} {psql}"""
