"""A session's files as psql reads them: proven to be what was written, unpacked where they are compressed."""

import errno
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backup.errors import RestoreError
from backup.profile import step
from backup.session.folder import RESTORE_SCRIPT, SavedTable, Session, hash_file, passing_folder
from backup.session.packing import unpack


@contextmanager
def plain_files(session: Session, oids: Collection[int]) -> Iterator[Path]:
    """A folder with `restore.sql` and the plain files of these tables; every file of the session is proven.

    It is the session's own where none of them is compressed. Else it is a private one beside the session, gone
    afterwards, and cleared by the next run where this one was killed.

    Raises:
        RestoreError: a file was changed since, or is damaged, or the plain ones cannot be written.
    """
    packed = [table for table in session.manifest.tables if table.packed and table.oid in oids]
    with step("proving the files"):
        _refuse(session, _changed(session, packed))
    with ExitStack() as held:
        folder = session.path
        if packed:
            try:
                with step("unpacking"):
                    folder = held.enter_context(passing_folder(session.path.parent))
                    _unpack(session, packed, folder)
            except OSError as error:
                raise RestoreError(
                    f"{session.path} cannot be unpacked into a folder beside it: {error.strerror or error}.",
                    untouched="Nothing was restored.",
                    remedy="Make room there, or copy the session to a folder that has it and can be written.",
                ) from error
        yield folder


def _changed(session: Session, unpacked: Collection[SavedTable]) -> list[str]:
    """The files that are not what was written; those that are unpacked show it then."""
    expected = {table.file: table.sha256 for table in session.manifest.tables if table.file and table not in unpacked}
    expected[RESTORE_SCRIPT] = session.manifest.restore_script_sha256
    return [name for name, sha256 in expected.items() if hash_file(session.path / name) != sha256]


def _unpack(session: Session, tables: Sequence[SavedTable], folder: Path) -> None:
    needed = sum(table.packed.plain_bytes for table in tables if table.packed)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it takes {needed:,} bytes, and {free:,} are free")
    wrong = []
    for table in tables:
        assert table.packed and table.file and table.plain_file and table.sha256  # noqa: PT018, S101 - packed ones have all
        if not unpack(session.path / table.file, folder / table.plain_file, table.packed, table.sha256):
            wrong.append(table.file)
    _refuse(session, wrong)
    shutil.copyfile(session.path / RESTORE_SCRIPT, folder / RESTORE_SCRIPT)


def _refuse(session: Session, wrong: Sequence[str]) -> None:
    if wrong:
        raise RestoreError(
            f"{session.path}: {', '.join(wrong)} is not what was written; the manifest's SHA-256 is another.",
            untouched="Nothing was restored.",
            remedy="Use another session, or compare the files by eye and run psql -f yourself.",
        )
