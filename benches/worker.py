"""Search in a separate process, since the instruction set of an environment variable is chosen at its start.

``python -m benches.worker METRIC ROWS.npy`` writes the name of its instruction set to stdout, then reads requests of
(queries, k, threads) from stdin and writes responses of (ids, scores) to stdout, all pickled.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


class Worker:
    """The parent's side: starts a process with ``CTXEMBED_ISA`` that holds the rows."""

    def __init__(self, metric: str, rows: np.ndarray, isa: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npy"
            np.save(path, rows)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benches.worker", metric, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "CTXEMBED_ISA": isa},
                cwd=Path(__file__).parent.parent,
            )
            atexit.register(self.close)
            self.isa = self._receive()  # the process has read the rows before

    def _receive(self) -> Any:
        return pickle.load(self._process.stdout)

    def search(self, queries: np.ndarray, k: int, threads: int | None) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Return the call that searches for the best ``k``."""
        request = pickle.dumps((queries, k, threads))

        def call() -> tuple[np.ndarray, np.ndarray]:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            return self._receive()

        return call

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    import ctxembed
    from ctxembed import _core

    metric, path = sys.argv[1:]
    rows = np.load(path)
    index = ctxembed.BinaryIndex(rows.shape[1] * 8) if metric == "hamming" else ctxembed.Index(rows.shape[1])
    index.add(rows)
    del rows
    pickle.dump(dict(_core.isa_paths())["hamming" if metric == "hamming" else "dot"], sys.stdout.buffer)
    sys.stdout.buffer.flush()
    while True:
        try:
            queries, k, threads = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        found = index.search(queries, k, threads=threads)
        pickle.dump((found.ids, found.scores), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
