r"""The text around a delta's rows: how psql makes one of them and of the session's.

The session's files include the script of a table's delta, `\ir :cdc_delta_OID`, when its own rows are loaded and
checked, and before anything hangs on the table. Then they know nothing but one table with rows in it, so that
whatever a restore does with a table it does with the delta's rows too. The script tells that it was there by
`cdc_took_OID`, and that sequences have to be looked at by `cdc_with_delta`; under `cdc_report` it says
`cdc delta: OID added changed`, in rows.
"""

from collections.abc import Iterator, Sequence

from backup.postgres.clients import argument
from backup.postgres.fingerprint import fingerprint
from backup.postgres.tables import Table
from backup.session.delta_parts import Delta, Part, delta_variable
from backup.session.folder import RESTORE_SCRIPT, Manifest
from backup.session.merge import missing_rows, row_text, same_key
from backup.session.packing import SUFFIXES, UNPACK
from backup.session.statements import block, identifier, literal, one_line

_BENEATH = "cdc-backup: session"
_NEWER = "cdc-backup: newer"
_PART = "cdc-backup: part"
_UNCHANGED = "nothing was changed"


def copy_statement(table: Table, columns: Sequence[str]) -> str:
    """The line before the rows of a part."""
    listed = f" ({', '.join(map(identifier, columns))})" if columns else ""
    return f"COPY {_name(table)}{listed} FROM stdin;\n"


def apply_delta(table: Table, parts: Sequence[Part]) -> str:
    """The script of a table's delta: first the newer rows are added, then the others merged.

    Parts of newer rows are united before: an earlier one may hold rows that somebody deleted since.
    """
    newer = [part for part in parts if part.kind == "newer"]
    merged = [part for part in parts if part.kind == "merged"]
    lines = [
        f"-- The delta of {one_line(str(table))}: read by the session's files alone.\n",
        f"SELECT pg_catalog.count(*) AS cdc_before FROM ONLY {_name(table)} \\gset\n\\set cdc_changed 0\n",
    ]
    if newer:
        lines += _load(table, newer[0], _BENEATH)
        for part in newer[1:]:
            lines += [*_load(table, part, _NEWER), *_unite(table, _NEWER)]
        loaded = identifier(table.schema, _PART)
        lines += [*_lift(table, _BENEATH), _insert(table, f"FROM ONLY {loaded}"), f"DROP TABLE {loaded};\n"]
        lines.append(_prove_sum(table))
    for part in merged:
        lines += [*_load(table, part, _BENEATH), *_unite(table, _BENEATH)]
    lines += [
        f"SELECT pg_catalog.count(*) - :cdc_before AS cdc_more FROM ONLY {_name(table)} \\gset\n",
        f"\\set cdc_took_{table.oid} on\n\\set cdc_with_delta on\n",
        f"\\if :{{?cdc_report}}\n\\echo cdc delta: {table.oid} :cdc_more :cdc_changed\n\\endif\n",
    ]
    return "".join(lines)


def restore_delta(delta: Delta, deaf: Sequence[str], unknown: Sequence[str]) -> str:
    """`restore.sql` of a delta: the session's, told of the delta.

    `deaf` are tables whose files in the session would pass it over, `unknown` those that the session does not have.
    """
    head = f"-- {delta.session} with the rows that were saved when its migration took the tables\n"
    head += f"-- psql -f {RESTORE_SCRIPT} brings every table back, in one transaction.\n\n"
    head += "\\set ON_ERROR_STOP on\n\\set QUIET on\n"
    if deaf:
        return head + _raise(
            f"the files of {delta.session} know nothing of a delta of {', '.join(deaf)}; {_UNCHANGED}",
            f"Its rows are in *.rows.sql beside this file; {delta.session}/{RESTORE_SCRIPT} restores the others.",
        )
    lines, tables = [head], [table for table in delta.tables if table.qualified not in unknown]
    for table in tables:
        path = argument(f"../{delta.session}.delta/{table.script}")
        lines.append(f"\\unset cdc_took_{table.oid}\n\\set {delta_variable(table.oid)} {path}\n")
    lines.append(f"\\ir {argument(f'../{delta.session}/{RESTORE_SCRIPT}')}\n")
    lines.append("\\set cdc_forgotten ''\n")
    for table in tables:
        lines.append(f"\\unset {delta_variable(table.oid)}\n\\if :{{?cdc_took_{table.oid}}}\n\\else\n")
        lines.append(f"\\set cdc_forgotten :cdc_forgotten {argument(f' {one_line(table.qualified)}')}\n\\endif\n")
    lines.append("SELECT pg_catalog.set_config('cdc.forgotten', :'cdc_forgotten', false) <> '' AS cdc_forgot \\gset\n")
    lines.append("\\if :cdc_forgot\n")
    lines.append(
        block(
            "    RAISE EXCEPTION 'all is restored, but WITHOUT the rows in the delta of%',"
            " pg_catalog.current_setting('cdc.forgotten');\n"
        )
    )
    lines.append("\\endif\n")
    lines += [
        f"\\warn {argument(f'{one_line(name)} is not in the backup, so its rows were not restored')}\n"
        for name in unknown
    ]
    return "".join(lines)


def summarize_delta(delta: Delta, manifest: Manifest) -> str:
    """`delta-summary.txt`, for people."""
    lines = [
        f"What was written to the CDC tables of {manifest.database} on {manifest.host} after a backup of them,",
        "saved at the moment when a migration was about to take them",
        "",
        f"Session:  {delta.session} ({manifest.created:%Y-%m-%d %H:%M:%S} UTC)",
        "",
    ]
    known = {table.oid for table in manifest.tables}
    for table in delta.tables:
        for part in table.parts:
            what = (
                "newer than the backup"
                if part.kind == "newer"
                else "newer, some of them in the place of rows of the backup"
            )
            lines.append(f"  {one_line(table.qualified)}  {part.rows:,} rows  {what}  {part.file}")
        if table.oid not in known:
            lines.append("    the backup does not have this table, so that no restore brings these rows back")
    lines += [
        "",
        "To bring back what is gone, session and delta together:",
        "",
        *([f"  {UNPACK[packed]} {delta.session}/*{SUFFIXES[packed]}"] if (packed := manifest.compression) else []),
        f"  psql -d DATABASE -f {delta.session}.delta/{RESTORE_SCRIPT}",
        "",
    ]
    return "\n".join(lines)


def _load(table: Table, part: Part, beneath: str) -> Iterator[str]:
    """Give the table that is there another name, and load the part into one like it, under its own.

    That one is not to stay, and UNLOGGED: a publication would send its rows on as the table's.
    """
    name, there = _name(table), identifier(table.schema, beneath)
    yield f"ALTER TABLE {name} RENAME TO {identifier(beneath)};\n"
    yield f"CREATE UNLOGGED TABLE {name} (LIKE {there} INCLUDING GENERATED);\n"
    yield f"\\ir {argument(part.file)}\n"
    computed = fingerprint(table.identifier, [column.name for column in table.columns]).as_string(None)
    yield f"SELECT {computed} = {literal(part.fingerprint)} AS cdc_proven \\gset\n\\if :cdc_proven\n\\else\n"
    yield _raise(f"{table}: the rows of its delta are not those that were saved; {_UNCHANGED}") + "\\endif\n"


def _lift(table: Table, beneath: str) -> Iterator[str]:
    """Give the table beneath its own name again, by which a publication sends its rows on, and the part another."""
    yield f"ALTER TABLE {_name(table)} RENAME TO {identifier(_PART)};\n"
    yield f"ALTER TABLE {identifier(table.schema, beneath)} RENAME TO {identifier(table.name)};\n"


def _unite(table: Table, beneath: str) -> Iterator[str]:
    """Bring the rows that were loaded into the table beneath, which loses none but those of the same key."""
    name, part = _name(table), identifier(table.schema, _PART)
    yield from _lift(table, beneath)
    if table.key:
        # A publication of all tables forbids to delete from one without a replica identity.
        yield f"ALTER TABLE {name} REPLICA IDENTITY FULL;\n"
        yield (
            f"DELETE FROM ONLY {name} AS t USING ONLY {part} AS b"
            f" WHERE {same_key(table)} AND {row_text(table, 't')} <> {row_text(table, 'b')};\n"
        )
        yield "SELECT :cdc_changed + :ROW_COUNT AS cdc_changed \\gset\n"
        yield f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT;\n"
    yield _insert(table, missing_rows(table, part, name))
    row = row_text(table)
    yield block(
        f"    IF EXISTS (SELECT {row} FROM ONLY {part} EXCEPT ALL SELECT {row} FROM ONLY {name}) THEN\n"
        f"        RAISE EXCEPTION '%', {literal(f'{table}: not all rows of its delta came back; {_UNCHANGED}')};\n"
        "    END IF;\n"
    )
    yield f"DROP TABLE {part};\n"


def _insert(table: Table, rows: str) -> str:
    columns = ", ".join(identifier(column.name) for column in table.columns if not column.generated)
    into = f" ({columns}) OVERRIDING SYSTEM VALUE" if columns else ""
    return f"INSERT INTO {_name(table)}{into} SELECT {columns} {rows};\n"


def _prove_sum(table: Table) -> str:
    """Refuse what is not the session's rows and the newer ones together, where it is known what these amount to."""
    variable = f"cdc_sum_{table.oid}"
    computed = fingerprint(table.identifier, [column.name for column in table.columns]).as_string(None)
    return (
        f"\\if :{{?{variable}}}\nSELECT {computed} = :'{variable}' AS cdc_proven \\gset\n\\if :cdc_proven\n\\else\n"
        + _raise(f"{table}: with its delta it is not what it was; {_UNCHANGED}")
        + "\\endif\n\\endif\n"
    )


def _raise(message: str, hint: str = "") -> str:
    using = f"\n        USING HINT = {literal(hint)}" if hint else ""
    return block(f"    RAISE EXCEPTION '%', {literal(one_line(message))}{using};\n")


def _name(table: Table) -> str:
    return identifier(table.schema, table.name)
