"""What a migration changed in what is sent on: publications and replica identities."""

from collections.abc import Iterator

from psycopg import sql

from backup.migration.fault import Fault, Looks, Part, identifiers, listed, script, show
from backup.postgres.machinery import Publication, Published
from backup.postgres.shapes import Name


def lost_publications(looks: Looks) -> Iterator[Fault]:
    """Publications that are gone, or do not send on what they sent; a restored table is in its own again."""
    for before in looks.before.publications.values():
        its = {name for name in before.tables if name in looks.before.identities}
        after = looks.after.publications.get(before.name)
        if not its:
            continue
        if after is None:
            yield Fault(
                part=Part.PUBLICATION,
                sentence=f"The publication {before.name}, which sent {listed(its)}, is gone.",
                way_back=script([_make_publication(before)]),
                tables=frozenset(its),
            )
            continue
        alter = sql.SQL("ALTER PUBLICATION {} ").format(sql.Identifier(before.name)).as_string()
        out = {n for n in its if n in looks.now and looks.now[n] not in after.tables}
        if out and after.via_root == before.via_root:
            yield Fault(
                part=Part.PUBLICATION,
                sentence=f"The publication {before.name} no longer contains {listed(out)}.",
                way_back=script([f"{alter}ADD TABLE {identifiers(looks.now[n] for n in out)}"]),
                tables=frozenset(out),
            )
        yield from _narrowed(before, after, looks)
        if silent := [o.upper() for o in before.operations if o not in after.operations]:
            yield Fault(
                part=Part.PUBLICATION,
                sentence=f"The publication {before.name}, with {listed(its)} in it, no longer publishes "
                f"{' and '.join(silent)}.",
                way_back=script([f"{alter}SET (publish = '{', '.join(before.operations)}')"]),
                tables=frozenset(its),
            )


def _narrowed(before: Publication, after: Publication, looks: Looks) -> Iterator[Fault]:
    """Tables of which it sends fewer columns, or rows by a filter that was not there or was another."""
    for name, was, now in looks.shapes():
        if name not in before.tables or now.name not in after.tables:
            continue
        sent, sends = before.tables[name], after.tables[now.name]
        numbers = {column.name: column.number for column in was.columns.values()}
        kept = {
            (now.columns[numbers[c]].name if was.oid == now.oid and numbers.get(c) in now.columns else c)
            for c in sent.columns
        }
        fewer = sorted((kept & {c.name for c in now.columns.values()}) - set(sends.columns)) if sends.listed else []
        filtered = sends.filter and sends.filter != sent.filter
        if not fewer and not filtered:
            continue
        what = [f"no longer its columns {', '.join(fewer)}"] if fewer else []
        what += (
            [f"only its rows WHERE {sends.filter}" + (f", not {sent.filter}" if sent.filter else "")]
            if filtered
            else []
        )
        alter = sql.SQL("ALTER PUBLICATION {} ").format(sql.Identifier(before.name)).as_string()
        yield Fault(
            part=Part.PUBLICATION,
            sentence=f"The publication {before.name} sends of {show(name)} {' and '.join(what)}.",
            way_back=script(
                [f"{alter}DROP TABLE {identifiers([now.name])}", f"{alter}ADD TABLE {_entry(now.name, sent)}"]
            ),
            tables=frozenset([name]),
            is_loss=bool(fewer) or not sent.filter,
        )


def _entry(name: Name, sent: Published) -> str:
    """A table as a publication names it."""
    columns = ", ".join(sql.Identifier(column).as_string() for column in sent.columns)
    return (
        identifiers([name])
        + (f" ({columns})" if sent.listed else "")
        + (f" WHERE ({sent.filter})" if sent.filter else "")
    )


def _make_publication(publication: Publication) -> str:
    """The statement that makes it; its schemas as such it does not have."""
    name = sql.Identifier(publication.name).as_string()
    tables = (
        "ALL TABLES"
        if publication.all_tables
        else "TABLE " + ", ".join(_entry(name, publication.tables[name]) for name in sorted(publication.tables))
    )
    options = f"publish = '{', '.join(publication.operations)}', publish_via_partition_root = {publication.via_root}"
    return f"CREATE PUBLICATION {name} FOR {tables} WITH ({options.lower()})"


def changed_identities(looks: Looks) -> Iterator[Fault]:
    """Tables whose old rows are told otherwise in the WAL."""
    for name, before in looks.before.identities.items():
        after = looks.after.identities.get(looks.now.get(name, name))
        if after and after != before:
            alter = sql.SQL("ALTER TABLE {} REPLICA IDENTITY ").format(sql.Identifier(*looks.now[name])).as_string()
            yield Fault(
                part=Part.REPLICA_IDENTITY,
                sentence=f"The replica identity of {show(name)} was {before} and is {after}.",
                way_back=script([alter + before]),
                tables=frozenset([name]),
            )
