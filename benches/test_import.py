"""The time to import a package, in a new process each time."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from benches.harness import Case, Peer, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale


def _process(statement: str, _case: Case, _threads: int) -> Callable[[], bytes]:
    """Run a statement in a process that prints its modules, at the same cost for all statements."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    arguments = [sys.executable, "-c", program]
    return lambda: subprocess.run(arguments, check=True, capture_output=True).stdout


def _import(name: str) -> Callable[[Any, int], Callable[[], bytes]]:
    return partial(_process, f"import {name}")


@dataclass(frozen=True, eq=False)
class ImportCase(Case):
    """A process that imports one package and ends."""

    group: ClassVar = "import"
    modules: ClassVar = {
        "ctxembed": "ctxembed._core",
        "numpy": "numpy",
        "perplexityai": "perplexity",
        "no import": "sys",
    }

    @property
    def label(self) -> str:
        return "a process that imports"

    @property
    def size(self) -> dict[str, int]:
        return {}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Check that the process has imported the package."""
        return Verdict(self.modules[peer.name] in result.decode().split())


PEERS = {
    ImportCase: (
        Peer("ctxembed", _import("ctxembed"), "ours"),
        Peer("numpy", _import("numpy")),
        Peer("perplexityai", _import("perplexity")),
        Peer("no import", partial(_process, "pass"), "reference"),
    ),
}


def cases(_scale: Scale) -> list[Case]:
    return [ImportCase()]


def test_import(run, measure):
    measure(run)
