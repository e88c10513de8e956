"""The container that the database is in: which it is, where it is reached, whether the programs in it serve."""

from collections.abc import Iterator

from backup.errors import CDCBackupError
from backup.reach import Reach
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


def _remark(detail: str, remedy: str) -> Finding:
    return Finding(check="container", health=Health.WARNING, detail=detail, remedy=remedy)
