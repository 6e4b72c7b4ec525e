"""Search with the lower instruction sets of other CPUs, selected by ``CTXEMBED_ISA``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benches.cases.search import MOST_QUERIES, DataSet, SearchCase
from benches.harness import ALL_THREADS, Peer
from benches.peers import search as peers
from benches.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Case, Scale

AVX2, SCALAR = "avx2", "scalar"


def _ours(case: PathCase, threads: int) -> Callable[[], Any]:
    def start() -> Worker:
        return Worker(case.metric, case.data.rows, case.isa)

    worker = case.data.cache.get(("worker", case.isa), start)
    if worker.isa != case.isa:
        raise RuntimeError(f"this CPU has no {case.isa} path")
    return worker.search(case.queries, case.k, None if threads == ALL_THREADS and threads > 1 else threads)


def _avx2(case: PathCase) -> bool:
    return case.isa == AVX2


def _scalar(case: PathCase) -> bool:
    return case.isa == SCALAR


@dataclass(frozen=True, eq=False)
class PathCase(SearchCase):
    """A search on a lower path. The peer of the AVX2 path is faiss, that of the portable path numpy."""

    isa: str = AVX2
    group: ClassVar = "paths"

    @property
    def label(self) -> str:
        return f"{super().label}, {self.isa}"

    @property
    def table(self) -> str:
        kind = "bits, Hamming distance" if self.metric == "hamming" else "int8, cosine"
        return f"{self.isa}: {kind}"


@dataclass(frozen=True, eq=False)
class HammingPath(PathCase):
    """A search by Hamming distance."""


@dataclass(frozen=True, eq=False)
class CosinePath(PathCase):
    """A search by cosine."""


PEERS = {
    HammingPath: (
        Peer("ctxembed.BinaryIndex", _ours, "ours", threaded=True),
        Peer("faiss IndexBinaryFlat", peers.faiss_binary, threaded=True, takes=_avx2),
        Peer("numpy bitwise_count", peers.numpy_popcount, threaded=True, takes=_scalar),
    ),
    CosinePath: (
        Peer("ctxembed.Index", _ours, "ours", threaded=True),
        Peer("faiss ScalarQuantizer int8", peers.faiss_int8, threaded=True, exact=False, takes=_avx2),
        Peer("numpy int32 product", peers.numpy_int32, threaded=False, takes=_scalar),
        Peer("numpy float32 GEMM", peers.numpy_gemm, threaded=True),
    ),
}


def cases(scale: Scale) -> list[Case]:
    part = {"smoke": 50, "quick": 10, "full": 1}[scale]
    found: list[Case] = []
    for kind, metric, rows in ((HammingPath, "hamming", 500_000), (CosinePath, "cosine", 100_000)):
        data = DataSet(metric, rows // part)
        found += [kind(data, count, AVX2) for count in (1, 16, MOST_QUERIES)]
        found += [kind(data, count, SCALAR) for count in (1, 16)]
    return found


def test_paths(run, measure):
    measure(run)
