"""Kill a process, or fail a system call of it, at each change of a file in turn: what all such tests share.

A module of steps says what is done and what has to hold, and calls :func:`main`. A test runs it by :func:`run_steps`,
in a process with ``faults.c`` preloaded. Each step is a process of its own, forked from that one, which has no thread
and no open collection.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

MODES = {"count": 0, "kill": 1, "torn": 2, "no-space": 3, "io-error": 4, "disk-full": 5}
KILLED = "killed"


def build_faults(folder):
    """Compile the library that fails system calls."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler")
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def run_steps(library, name, folder, mode, *options):
    """Run the steps of a module with a library of :func:`build_faults`, and return what it has found."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.collection.{name}", mode, "--folder", str(folder), *options],
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Faults:
    """The preloaded library."""

    def __init__(self):
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.disarm = self._library.faults_disarm
        self.count = self._library.faults_count
        self.count.restype = ctypes.c_long

    def arm(self, folder, step, mode):
        self._library.faults_arm(os.fsencode(folder), ctypes.c_long(step), MODES[mode])


def run_in_child(call):
    """Call in a forked process, and return its error, ``KILLED``, or None."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            call()
        except BaseException:  # noqa: BLE001
            os.write(writer, traceback.format_exc()[-60_000:].encode())  # less than the pipe takes
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        error = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        signal_number = os.WTERMSIG(status)
        return KILLED if signal_number == signal.SIGKILL else f"the child was ended by signal {signal_number}"
    return error or None


def run_step(call, check):
    """Call in a child, check what it leaves, and return an error or None.

    Parameters
    ----------
    call : callable
        What is done while a fault is to come.
    check : callable
        Called with whether the child was killed.
    """
    error = run_in_child(call)
    if error not in (None, KILLED):
        return error
    try:
        check(error == KILLED)
    except Exception:  # noqa: BLE001
        return traceback.format_exc()
    return None


def main(prepare, step, modes=tuple(MODES)):
    """Run the steps that the arguments of the process name, and print what was found as JSON.

    Parameters
    ----------
    prepare : callable
        Called once with the folder.
    step : callable
        Called with the library, the folder, a mode and a number; it returns an error or None. Without a fault (mode
        "count") it writes the number of changes to the file ``steps``.
    modes : sequence of str
        The faults that it knows.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--step", type=int)
    given = parser.parse_args()
    prepare(given.folder)
    faults = Faults()
    error = step(faults, given.folder, "count", 0)
    assert error is None, error
    total = int((given.folder / "steps").read_text())
    numbers = [given.step] if given.step else list(range(given.first, total + 1, given.stride))
    failed = {}
    for number in numbers:
        error = step(faults, given.folder, given.mode, number)
        if error is not None:
            failed[number] = error
    json.dump({"total": total, "run": len(numbers), "failed": failed}, sys.stdout)
