"""What a fault is, and both looks at the machinery that it is found in."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg import sql

from backup.postgres.machinery import Machinery, Trigger
from backup.postgres.shapes import Name, Shape


class Part(StrEnum):
    """Which part of the machinery it is about."""

    WRITES_FAIL = "writes fail"
    TRIGGER = "trigger"
    FUNCTION = "function"
    PUBLICATION = "publication"
    REPLICA_IDENTITY = "replica identity"
    TABLE = "table"
    SETTING = "setting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is not as it was, in a sentence; `way_back` are the statements that bring it back, if any do.

    `tables` are the CDC tables that it is about, as they were called. Where it is no loss it is told, and that is all:
    it went with what a person let go, or may well be meant.
    """

    part: Part
    sentence: str
    way_back: str = ""
    tables: frozenset[Name] = frozenset()
    is_loss: bool = True


@dataclass(frozen=True)
class Looks:
    """Both looks. `now` has the name that each CDC table is known by today; what is gone is not in it."""

    before: Machinery
    after: Machinery
    now: Mapping[Name, Name]

    @property
    def called(self) -> dict[Name, Name]:
        """What each CDC table was called, by the name that it is known by today."""
        return {new: old for old, new in self.now.items()}

    def captured(self) -> dict[tuple[int | Name, str, Name], list[Trigger]]:
        """What captures now, by a relation's OID as well as its name, the event, the CDC table as it was called."""
        called = self.called
        captured: dict[tuple[int | Name, str, Name], list[Trigger]] = defaultdict(list)
        for trigger in self.after.triggers:
            for relation in (trigger.relation, trigger.on) if trigger.fires else ():
                for event in trigger.events:
                    for name in trigger.names:
                        captured[relation, event, called.get(name, name)].append(trigger)
        return dict(captured)

    def shapes(self) -> Iterator[tuple[Name, Shape, Shape]]:
        """The CDC tables that are there still, as they were called, with both shapes."""
        for name, now in self.now.items():
            if name in self.before.shapes and now in self.after.shapes:
                yield name, self.before.shapes[name], self.after.shapes[now]


def show(name: Name) -> str:
    """The name, for a person."""
    return ".".join(name)


def either(events: Sequence[str]) -> str:
    """Events, for a person."""
    return " or ".join(filter(None, (", ".join(events[:-1]), events[-1])))


def listed(names: Iterable[Name]) -> str:
    """Names, for a person."""
    return ", ".join(map(show, sorted(names)))


def identifiers(names: Iterable[Name]) -> str:
    """Names, for a statement."""
    return ", ".join(sql.Identifier(*name).as_string() for name in sorted(names))


def script(statements: Iterable[str]) -> str:
    """The statements, each with its end."""
    return "\n".join(f"{statement};" for statement in statements)


def alter(name: Name, rest: str) -> str:
    """An ALTER TABLE of it."""
    return f"ALTER TABLE {sql.Identifier(*name).as_string()} {rest}"
