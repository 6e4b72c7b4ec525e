"""Where an export goes: files with temporary names beside the target, which get their names once all are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ctxembed._collection.folder import named_errors, sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["Target"]

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""Errors of file systems without hard links."""


class Target:
    """The files of an export. Leaving its context without an exception makes them the target, else removes them.

    Parameters
    ----------
    path : Path
        The target, with symbolic links resolved.
    companions : sequence of str
        Endings of further files, behind the whole name of the target.
    folder : str or None
        The only entry of the folder that the target is; None where it is a file.
    overwrite : bool
        Whether files of that name are replaced.

    Raises
    ------
    FileExistsError
        A file is there, and ``overwrite`` is false; or it is none that an export wrote.
    FileNotFoundError
        There is no folder to write to.

    Notes
    -----
    A process that is killed leaves files named ``.ctxembed-export-*.part``. What stood at the target before stays there
    until the new files are whole and on the disk.
    """

    def __init__(self, path: Path, companions: Sequence[str], *, folder: str | None, overwrite: bool) -> None:
        self._path = path
        self._is_folder = folder is not None
        self._overwrite = overwrite
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no folder to write to", str(path.parent))
        self._stem = f".ctxembed-export-{secrets.token_hex(6)}"
        # The target itself comes last: while it is not there, nothing looks whole.
        self._parts = {
            path.with_name(path.name + ending): path.with_name(f"{self._stem}{ending}.part")
            for ending in [*companions, ""]
        }
        for final in reversed(self._parts):
            self._check(final, folder)

    def _check(self, final: Path, folder: str | None) -> None:
        try:
            mode = final.lstat().st_mode
        except FileNotFoundError:
            return
        if not self._overwrite:
            raise FileExistsError(errno.EEXIST, "the target exists: overwrite=True replaces it", str(final))
        if folder is None:
            if not stat.S_ISREG(mode):
                raise FileExistsError(errno.EEXIST, "the target is no regular file, so it is not replaced", str(final))
        elif not stat.S_ISDIR(mode) or {entry.name for entry in final.iterdir()} - {folder}:
            raise FileExistsError(
                errno.EEXIST, f"the target holds more than {folder}, so it is not replaced", str(final)
            )

    def part(self, ending: str = "") -> Path:
        """Return the temporary name of the target, or of a companion."""
        return self._parts[self._path.with_name(self._path.name + ending)]

    @property
    def files(self) -> tuple[str, ...]:
        """The names that the files get: the target first."""
        return tuple(map(str, reversed(self._parts)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for part in self._parts.values():
                _remove(part)

    def _commit(self) -> None:
        for part in self._parts.values():
            _sync(part)
        old = self._path.with_name(f"{self._stem}.old.part")
        made: list[Path] = []
        try:
            if self._overwrite and self._is_folder and self._path.exists():
                self._path.rename(old)  # no call replaces a folder that is not empty
            elif self._overwrite and len(self._parts) > 1:
                # Between the two renames the old target would stand beside the new companion.
                self._path.unlink(missing_ok=True)
                sync_folder(self._path.parent)
            for final, part in self._parts.items():
                self._rename(part, final)
                made.append(final)
        except BaseException:
            for final in made:
                final.unlink(missing_ok=True)
            if old.exists():
                old.rename(self._path)
            raise
        sync_folder(self._path.parent)
        _remove(old)

    def _rename(self, part: Path, final: Path) -> None:
        if self._overwrite and not self._is_folder:
            part.replace(final)
            return
        if not self._is_folder:
            try:
                final.hardlink_to(part)  # unlike a rename, it replaces nothing that has appeared meanwhile
            except FileExistsError:
                pass  # refused below
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                return
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, "the target has appeared meanwhile", str(final))
        part.rename(final)


def _sync(path: Path) -> None:
    """Flush a file, or all of a folder, to the disk."""
    if path.is_dir():
        for root, _, files in os.walk(path):
            for name in files:
                _sync(Path(root) / name)
            sync_folder(Path(root))
        return
    with path.open("rb+") as stream, named_errors(path):
        os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
