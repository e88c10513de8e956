"""The table of contents of pg_dump's directory format: every definition, whole, under its catalog OID.

The layout is that of `ReadHead` and `ReadToc` in PostgreSQL's `pg_backup_archiver.c`. Reading it, where
`pg_restore -L` would print text to be cut apart, never confuses a comment with the next definition, and
costs no process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backup.errors import BackupError

_MAGIC = b"PGDMP"
_KNOWN_VERSIONS = {(1, 14), (1, 15), (1, 16)}
"""Archive formats of pg_dump 12 to 18: table access method since 1.14, compression algorithm since
1.15, relkind since 1.16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One definition, or the rows of one table.

    `text` is SQL without the owner. `catalog` and `oid` are the OIDs of the catalog that holds the
    object and of the object in it; rows have the table's OID and catalog 0, comments and grants have
    neither and depend on what they speak of. `file` is where a table's rows are, in the archive's folder.
    """

    dump_id: int
    catalog: int
    oid: int
    kind: str
    schema: str
    tag: str
    owner: str
    tablespace: str
    access_method: str
    text: str
    drop_statement: str
    copy_statement: str
    depends_on: tuple[int, ...]
    file: str


def read_archive(folder: Path) -> tuple[Entry, ...]:
    """All entries of the archive in `folder`, in the order in which they can be restored.

    Raises:
        BackupError: it is no whole archive in directory format, or of a version that is not known here.
    """
    try:
        return _entries(memoryview((folder / "toc.dat").read_bytes()))
    except (FileNotFoundError, IndexError, ValueError) as error:
        raise BackupError(
            "pg_dump ended as if all were well, and wrote no whole table of contents.",
            untouched="No session was written.",
        ) from error


def _entries(data: memoryview) -> tuple[Entry, ...]:
    if bytes(data[:5]) != _MAGIC:
        raise ValueError("no archive of pg_dump's")
    version = (data[5], data[6])
    if version not in _KNOWN_VERSIONS:
        raise BackupError(
            f"pg_dump wrote an archive of version {version[0]}.{version[1]}, which is not known here.",
            untouched="No session was written.",
            remedy="Use a pg_dump of PostgreSQL 14 to 18.",
        )
    integer, text, skip = _readers(data, int_size=data[8], start=11)
    skip(1) if version >= (1, 15) else integer()  # compression
    for _ in range(7):  # when it was written
        integer()
    for _ in range(3):  # the database, the server's version, pg_dump's
        text()

    def entry() -> Entry:
        dump_id = integer()
        integer()  # whether rows follow
        catalog, oid, tag, kind = int(text()), int(text()), text(), text()
        integer()  # section
        definition, drop_statement = text(), text()
        copy_statement, schema, tablespace, access_method = text(), text(), text(), text()
        if version >= (1, 16):
            integer()  # relkind
        owner = text()
        text()  # WITH OIDS, long gone
        depends_on = []
        while (dependency := text()) != "":
            depends_on.append(int(dependency))
        return Entry(
            dump_id=dump_id,
            catalog=catalog,
            oid=oid,
            kind=kind,
            schema=schema,
            tag=tag,
            owner=owner,
            tablespace=tablespace,
            access_method=access_method,
            text=definition,
            drop_statement=drop_statement,
            copy_statement=copy_statement,
            depends_on=tuple(depends_on),
            file=text(),
        )

    return tuple(entry() for _ in range(integer()))


def _readers(
    data: memoryview, *, int_size: int, start: int
) -> tuple[Callable[[], int], Callable[[], str], Callable[[int], None]]:
    """Functions that read an integer, read a text (a null one is empty), and skip bytes, from `start` on."""
    position = start

    def integer() -> int:
        nonlocal position
        digits = data[position + 1 : position + 1 + int_size]
        if len(digits) < int_size:
            raise ValueError("it ends too early")
        value = int.from_bytes(digits, "little")
        negative = data[position]
        position += 1 + int_size
        return -value if negative else value

    def text() -> str:
        nonlocal position
        length = max(integer(), 0)
        position += length
        # A database in SQL_ASCII may hold names that are no UTF-8: they go out as they came in.
        return str(data[position - length : position], "utf-8", "surrogateescape")

    def skip(count: int) -> None:
        nonlocal position
        position += count

    return integer, text, skip
