"""A private folder inside of a container: made there, filled and read through the engine, and gone afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from backup.errors import BackupError, CDCBackupError
from backup.postgres.container import Container
from backup.postgres.docker_engine import cause, execute, failures
from backup.postgres.tar_stream import owner_of, pack, unpack

if TYPE_CHECKING:
    from docker import APIClient

PREFIX = "cdc-backup-"
PASSFILE = "passfile"
_PLACES = ("/tmp", "/var/tmp")  # noqa: S108 - of the container; what is made there is private


@dataclass(frozen=True, kw_only=True)
class PrivateFolder:
    """A folder inside that belongs to the user whom the engine runs programs as, and that nobody else can read."""

    api: "APIClient" = field(repr=False)
    container: Container
    path: PurePosixPath
    owner: tuple[int, int]

    def put(self, content: Path | str, name: str) -> PurePosixPath:
        """Bring a file or a folder of this machine, or a text, inside; where it is then."""
        self.api.put_archive(self.container.id, str(self.path), pack(content, name, self.owner))
        return self.path / name

    def take(self, name: str, target: Path) -> None:
        """Bring a file or a folder from inside to `target`."""
        pieces, _ = self.api.get_archive(self.container.id, str(self.path / name))
        unpack(pieces, target)


@contextmanager
def private_folder(api: "APIClient", container: Container, name: str, passfile: str) -> Iterator[PrivateFolder]:
    """A folder of that name with a passfile, in the first place that the programs inside and the engine both reach.

    The engine does not see what lies in a tmpfs of the container, and puts nothing into a container whose root file
    system is read-only.

    Raises:
        BackupError: there is no such place.
    """
    reasons = []
    for place in _PLACES:
        path = PurePosixPath(place) / name
        made = execute(api, container.id, ("mkdir", "-m", "700", str(path)), {})
        if made.returncode:
            reasons.append(f"{place}: {made.said}")
            continue
        try:
            try:
                pieces, _ = api.get_archive(container.id, str(path))
                folder = PrivateFolder(api=api, container=container, path=path, owner=owner_of(pieces))
                folder.put(passfile, PASSFILE)
            except failures() as error:
                reasons.append(f"{place}: the engine does not reach it: {cause(error)}")
                continue
            yield folder
            return
        finally:
            # An error here must not hide what brought us here; the next run tries again.
            with suppress(CDCBackupError, *failures()):
                _remove(api, container, path)
    raise BackupError(
        f"In the container {container.name} there is no room for a folder of ours:"
        + "".join(f"\n  {reason}" for reason in reasons),
        untouched="Nothing was done.",
        remedy="Let one of them be an ordinary folder, with no tmpfs on it and below no read-only root; or let "
        "backup.clients name programs of this machine.",
    )


def clear_left(api: "APIClient", container: Container, find_dead: Callable[[list[str]], list[str]]) -> None:
    """Remove the folders that killed runs left, as `find_dead` tells them by their names.

    Raises:
        BackupError: one cannot be removed.
    """
    listed = execute(api, container.id, ("ls", "-1", *_PLACES), {}).stdout.decode(errors="replace")
    found, place = dict[str, str](), ""
    for line in listed.split("\n"):
        if line.removesuffix(":") in _PLACES:
            place = line.removesuffix(":")
        elif line.startswith(PREFIX):
            found[line] = place
    for name in find_dead(list(found)):
        _remove(api, container, PurePosixPath(found[name]) / name)


def _remove(api: "APIClient", container: Container, path: PurePosixPath) -> None:
    removed = execute(api, container.id, ("rm", "-rf", str(path)), {})
    if removed.returncode:
        raise BackupError(
            f"{path} in the container {container.name} cannot be removed: {removed.said}",
            remedy=f"docker exec --user 0 {container.name} rm -rf {path}",
        )
