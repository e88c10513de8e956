"""The container that the database is in: which it is, where it is reached, whether the programs in it serve."""

from collections.abc import Iterator, Sequence

from backup.doctor.project import MOST
from backup.errors import CDCBackupError
from backup.postgres.container_clients import ContainerClients
from backup.postgres.database import Database
from backup.postgres.serving import ServingClients
from backup.reach import Reach
from backup.report import size
from backup.result import Finding, Health


def look_at_container(reach: Reach) -> Iterator[Finding]:
    """Nothing where none is named; a remark where it is not what it should be, since other programs may serve."""
    try:
        container = reach.container
    except CDCBackupError as error:
        yield _remark(error.what, error.remedy)
        return
    if container is None:
        return
    shown = f"{container.name}, of the image {container.image or 'without a name'}; its port {container.port} is " + (
        f"published at {':'.join(container.published)}" if container.published else "not published to this machine"
    )
    try:
        clients = reach.container_clients(container)
    except CDCBackupError as error:
        yield _remark(f"{shown}\n{error.what}", error.remedy)
    else:
        detail = f"{shown}\nits pg_dump, pg_restore and psql {clients.version} can serve (backup.clients: container)"
        yield Finding(check="container", health=Health.OK, detail=detail)


def look_at_room_inside(
    database: Database, clients: ServingClients | None, texts: Sequence[int] | None
) -> Iterator[Finding]:
    """Whether a dump, or a session that is restored, fits where the container's own programs put it."""
    if clients is None or not isinstance(clients.chosen, ContainerClients) or texts is None:
        return
    most = round(MOST * sum(texts))
    try:
        free = clients.chosen.room(database)
    except CDCBackupError as error:
        yield Finding(check="space inside", health=Health.MISSING, detail=error.what, remedy=error.remedy)
        return
    if free is None:
        detail = f"not looked at, for there is no df in {clients.place}; its pg_dump needs up to {size(most)} there"
        yield Finding(check="space inside", health=Health.WARNING, detail=detail, remedy="See that there is such room.")
        return
    enough = free >= most
    yield Finding(
        check="space inside",
        health=Health.OK if enough else Health.MISSING,
        detail=f"{size(free)} free in {clients.place}; its pg_dump needs up to {size(most)} there",
        remedy="" if enough else "Make room there, or let backup.clients name programs of this machine.",
    )


def _remark(detail: str, remedy: str) -> Finding:
    return Finding(check="container", health=Health.WARNING, detail=detail, remedy=remedy)
