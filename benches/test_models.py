"""Models on this machine: the quality of real vectors beside the stand-in's, and the time of the embedder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from benches import texts
from benches.cases import models
from benches.harness import ALL_THREADS, Case, Peer, Verdict

if TYPE_CHECKING:
    from benches.harness import Scale

pytestmark = pytest.mark.skipif(not texts.DATA.is_dir(), reason="../shared/data is absent: no text to embed")

LEAST = {"int8": 0.37, "bits": 0.30, "int8 queries, bits": 0.34}
"""nDCG@10 of the demo model that is required of all documents."""


@dataclass(frozen=True, eq=False)
class CranfieldCase(Case):
    """All documents and queries, from the client through a server."""

    group: ClassVar = "models"
    table: ClassVar = "Cranfield, nDCG@10"
    once: ClassVar = True
    timed: ClassVar = True
    threads: ClassVar = (ALL_THREADS,)
    bits: bool
    documents: int | None

    @property
    def label(self) -> str:
        return "packed bits" if self.bits else "int8"

    @property
    def size(self) -> dict[str, int]:
        rows = texts.cranfield_chunks()[: self.documents]
        return {
            "documents": len(rows),
            "rows": sum(map(len, rows)),
            "queries": len(texts.cranfield_texts()[1]),
            "k": 10,
        }

    def judge(self, peer: Peer, result: models.Embedded) -> Verdict:
        """Compare the demo model's rows with those of the embedder in this process, and its quality with the least."""
        documents, queries = result.documents, result.queries
        values = {
            "bits" if self.bits else "int8": models.ndcg(queries.to_binary() if self.bits else queries, documents)
        }
        if self.bits:
            values["int8 queries, bits"] = models.ndcg(queries, documents)
        correct = not documents.failures
        if peer.name != "stand-in":
            sample = texts.cranfield_chunks()[: self.documents][::50]
            direct = models.embedder().embed(sample, encoding_format=documents.encoding_format)
            served = np.concatenate([documents[place] for place in range(0, len(documents), 50)])
            correct = correct and bool((served == direct.vectors).mean() >= 0.999)
            if self.documents is None:
                correct = correct and all(value >= LEAST[name] for name, value in values.items())
        note = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        return Verdict(correct, note, values)


@dataclass(frozen=True, eq=False)
class ThroughputCase(Case):
    """The passes of some documents."""

    group: ClassVar = "models"
    table: ClassVar = "tokens per second of processor time"
    timed: ClassVar = True
    threads: ClassVar = (1,)
    count: int

    @cached_property
    def passes(self) -> models.Passes:
        """The documents, and their passes."""
        return models.Passes(self.count)

    @property
    def label(self) -> str:
        return f"{self.count} documents, {self.passes.tokens:,} tokens"

    @property
    def size(self) -> dict[str, int]:
        return {"documents": self.count, "tokens": self.passes.tokens}

    def judge(self, _peer: Peer, result: models.Took) -> Verdict:
        """Compare the int8 values with those of the embedder, up to one where they are rounded."""
        expected = models.embedder(1).embed(self.passes.documents).vectors
        difference = np.abs(result.codes.astype(int) - expected)
        speed = self.passes.tokens / result.seconds
        return Verdict(bool(difference.max() <= 1), f"{speed:,.0f} tokens/s", {"tokens/s": round(speed)})


def _cranfield(model: str | None) -> Any:
    def prepare(case: CranfieldCase, _threads: int) -> Any:
        name = models.embedder().model.name if model is None else model
        encoding_format = "base64_binary" if case.bits else "base64_int8"
        return lambda: models.embed(name, encoding_format, case.documents)

    return prepare


PEERS = {
    CranfieldCase: (
        Peer("all-MiniLM-L6-v2", _cranfield(None), "ours"),
        Peer("stand-in", _cranfield(models.STAND_IN), "reference"),
    ),
    ThroughputCase: (
        Peer("LocalEmbedder", lambda case, _threads: case.passes.ours(), "ours"),
        Peer("onnxruntime alone", lambda case, _threads: case.passes.bare(), "reference"),
    ),
}


def cases(scale: Scale) -> list[Case]:
    if not texts.DATA.is_dir():
        return []
    documents = {"smoke": 40, "quick": 200, "full": None}[scale]
    throughput = {"smoke": 10, "quick": 50, "full": 150}[scale]
    return [CranfieldCase(False, documents), CranfieldCase(True, documents), ThroughputCase(throughput)]


def test_models(run, measure):
    measure(run)
