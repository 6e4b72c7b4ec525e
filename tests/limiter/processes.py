"""Processes for the tests of limiters: that of ``ctxembed limiter``, and clients that embed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, contextmanager

WORKER = """
import sys
import ctxembed

address, base_url, number, count = sys.argv[1:]
documents = [[f"document {i} of process {number}"] for i in range(int(count))]
options = {"limiter": ctxembed.limiter(address), "limits": ctxembed.Limits(documents=1)}
with ctxembed.Client("a-key-for-tests", base_url=base_url, max_retries=50, retry_budget=None, **options) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(client.embed(documents).vectors), flush=True)
"""


class Process:
    """A process, and the first line that it prints."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.line = self._process.stdout.readline().strip()
        if not self.line:
            _, stderr = self._process.communicate()
            raise RuntimeError(stderr)

    @property
    def pid(self):
        return self._process.pid

    def signal(self, number):
        self._process.send_signal(number)

    def go(self):
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def read(self):
        return self._process.stdout.readline().strip()

    def end(self):
        """Wait for the end, and return the exit code and stderr."""
        _, stderr = self._process.communicate()
        return self._process.returncode, stderr

    def kill(self):
        self._process.kill()
        self._process.communicate()


@contextmanager
def processes():
    """Yield a function that starts processes, which are killed at the end."""
    with ExitStack() as stack:

        def start(*command: str) -> Process:
            process = Process(*command)
            stack.callback(process.kill)
            return process

        yield start


def run_limiter(start, address, *options):
    """Start ``ctxembed limiter``; its line is the address."""
    return start("-m", "ctxembed", "limiter", "--listen", address, *options)


def run_worker(start, address, base_url, number, count):
    return start("-c", WORKER, address, base_url, str(number), str(count))
