"""backup-summary.txt: what a session holds, for people."""

from collections.abc import Iterator, Sequence

from backup.session.folder import RESTORE_SCRIPT, Manifest
from backup.session.packing import SUFFIXES, UNPACK
from backup.settings import Compression

LARGE = 256 * 1024 * 1024
"""Bytes of INSERT text from which on COPY is worth a word: it halves any restore, here by some ten seconds."""


def would_gain_by_copy(manifest: Manifest) -> bool:
    """Whether the rows are INSERT statements, and so many that COPY blocks would come back much sooner."""
    return manifest.format == "sql" and sum(table.rows_bytes or 0 for table in manifest.tables) > LARGE


def summarize(manifest: Manifest) -> str:
    """The text of the summary; it holds no password, for the manifest holds none."""
    with_file = [table for table in manifest.tables if table.file]
    rows = sum(table.rows for table in with_file)
    size = sum(table.bytes or 0 for table in with_file)
    lines = [
        f"Backup of the CDC tables of {manifest.database} on {manifest.host}",
        "",
        f"Session:     {manifest.session}",
        f"Moment:      {manifest.created:%Y-%m-%d %H:%M:%S} UTC (snapshot {manifest.snapshot}"
        + (f", WAL {manifest.wal_position})" if manifest.wal_position else ")"),
        f"Server:      PostgreSQL {manifest.server_version}",
        f"Written by:  cdc-backup {manifest.tool_version} with pg_dump {manifest.client_version}",
        *(["Rows:        as COPY blocks (backup.format: copy)"] if manifest.format == "copy" else []),
        f"Tables:      {len(with_file)} with {rows:,} rows, {size:,} bytes"
        + (f", compressed with {manifest.compression}" if manifest.compression else ""),
        "",
    ]
    width = max((len(_name(table.schema_name, table.name)) for table in with_file), default=0)
    for table in with_file:
        name = _name(table.schema_name, table.name)
        plain = f" ({table.packed.plain_bytes:,} plain)" if table.packed else ""
        lines.append(f"  {name:{width}}  {table.rows:>12,} rows  {table.bytes:>15,} bytes{plain}  {table.file}")
        if table.rows_per_insert == 0 and manifest.format == "sql":
            lines.append(f"  {'':{width}}  written as COPY: INSERT would lose the sign of a float's -0")
    if manifest.skipped:
        lines += ["", "Without a file (the definitions of those that are there are in restore.sql):", ""]
        lines += [f"  {_name(skipped.schema_name, skipped.name)}: {skipped.reason}" for skipped in manifest.skipped]
    if manifest.unasked:
        lines += ["", "CDC tables that are NOT in this backup, because others were named:", ""]
        lines += [f"  {' '.join(name.split())}" for name in manifest.unasked]
    if manifest.dependents:
        lines += ["", "What hangs on the tables and comes back with them:", ""]
        lines += [f"  {' '.join(dependent.split())}" for dependent in manifest.dependents]
    if manifest.not_kept:
        lines += ["", "What DROP … CASCADE would take as well, and what is NOT in this backup:", ""]
        lines += [f"  {' '.join(other.split())}" for other in manifest.not_kept]
    lines += [
        "",
        "To bring back what is gone:",
        "",
        *_by_hand(manifest.compression, [t.file or "" for t in with_file]),
        "",
        *(
            [
                "As COPY blocks (backup.format: copy) so many rows come back in about half the time.",
                "",
            ]
            if would_gain_by_copy(manifest)
            else []
        ),
    ]
    return "\n".join(lines)


def _by_hand(compression: Compression | None, files: Sequence[str]) -> Iterator[str]:
    """What a person without this tool types, in the session's folder."""
    everything = f"psql -d DATABASE -f {RESTORE_SCRIPT}      every table, in one transaction"
    if compression is None:
        yield f"  {everything}"
        yield from (f"  psql -d DATABASE -f {file}      one of them" for file in files[:1])
    else:
        yield f"  {UNPACK[compression]} *{SUFFIXES[compression]} && {everything}"
        yield f"  {compression} -dc {files[0]} | psql -d DATABASE      one of them"


def _name(schema: str | None, name: str) -> str:
    return " ".join((name if schema in (None, "public") else f"{schema}.{name}").split())
