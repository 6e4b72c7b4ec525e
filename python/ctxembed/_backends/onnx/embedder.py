"""Embeds documents with a model on this machine, by late chunking."""

from __future__ import annotations

import logging
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._backends.onnx.passes import Pass, PassPlanner, batches
from ctxembed._backends.onnx.probes import codes, mean_states
from ctxembed._errors import DocumentError
from ctxembed._models import check_dimensions, check_input_type
from ctxembed._planning.prepare import chunk_problems, iterate, materialise_documents
from ctxembed._results import Embeddings, Failure, InvalidDocumentsError, Problem, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ctxembed._backends.onnx.session import GraphSession
    from ctxembed._backends.onnx.stream import LocalStream
    from ctxembed._backends.onnx.tokenizer import ChunkTokenizer
    from ctxembed._models import EncodingFormat, InputType, Model

__all__ = ["LocalEmbedder"]

_LOG: Final = logging.getLogger("ctxembed")
_NOTHING: Final = Decimal(0)


class LocalEmbedder:
    """A model that runs on this machine. :func:`ctxembed.backends.load` creates it.

    It stands wherever a client does: ``collection.ingest(documents, embedder)``,
    ``collection.search("...", client=embedder)``.

    Attributes
    ----------
    model : Model
        Its name, dimensions and digest. It has no separator that a text may not hold, and costs nothing.
    device : {"cpu", "cuda"}
        Where it runs.
    context_tokens : int
        Tokens of one pass at most.
    batch_tokens : int or None
        Tokens of a batch at most, padding included; None: one pass at a time.

    Notes
    -----
    Late chunking (Günther et al., 2024): the chunks of a document go through the model together, with the model's
    separator between two, and a chunk's vector is the mean of the states of its tokens. int8 values are
    ``round(127 * tanh(mean))``, bits are ``mean >= 0`` with the least significant first. A chunk's text never forms a
    special token.

    All methods can be called from several threads at once. The passes release the GIL. A forked process cannot use the
    embedder of its parent, whose threads it does not have.

    Examples
    --------
    >>> embedder = ctxembed.backends.demo()
    >>> chunks = ["The heron stood in the reeds.", "It caught a fish."]
    >>> embedder.count_tokens([chunks])  # separators and special tokens included
    array([16])
    >>> index = ctxembed.Index(embedder.model.dimensions)
    >>> index.add(embedder.embed([chunks, ["Interest rates rose."]]))
    array([0, 1, 2])
    >>> index.search(embedder.embed_queries(["monetary policy"]), 1).ids.tolist()
    [[2]]
    """

    def __init__(
        self,
        model: Model,
        session: GraphSession,
        tokenizer: ChunkTokenizer,
        planner: PassPlanner,
        batch_tokens: int | None,
    ) -> None:
        self.model = model
        self.device = session.device
        self.context_tokens = planner.context
        self.batch_tokens = batch_tokens
        self._session = session
        self._tokenizer = tokenizer
        self._planner = planner

    def __repr__(self) -> str:
        """Show the model and where it runs."""
        return (
            f"LocalEmbedder({self.model.name!r}, {self.model.dimensions} dimensions, {self.context_tokens} tokens a "
            f"pass, {self.device})"
        )

    def embed(
        self,
        documents: Iterable[Iterable[str]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType | None = None,
        on_error: str = "raise",
        check: Callable[[], object] | None = None,
    ) -> Embeddings:
        """Embed chunks in the context of their documents.

        Parameters
        ----------
        documents : iterable of iterables of str
            The chunks of each document in their order.
        model : str, optional
            The embedder's own, under its name. Any other is refused.
        dimensions : int, optional
            Fewer than the model's, where it was trained for prefixes.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 values, or packed bits with the least significant bit first.
        input_type : {"document", "query"}, optional
            Only for a model with input types.
        on_error : {"raise", "return"}
            Whether a document that cannot be embedded raises before anything is computed, or is one of ``failures``.
        check : callable, optional
            Called before each pass or batch. What it raises ends the call.

        Returns
        -------
        Embeddings
            One row a chunk, in input order. ``usage`` counts the tokens that went through the model.

        Raises
        ------
        InvalidDocumentsError
            With ``on_error="raise"``: a document has no chunks, an empty chunk, one without tokens, or one that is
            longer than a pass; or is longer than a pass by itself and not to be cut. It is a ``ValueError``.
        TypeError, ValueError
            Another argument is not what it should be.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error must be 'raise' or 'return', got {on_error!r}")
        width = self._check(model, dimensions, encoding_format)
        role = check_input_type(self.model, input_type, "document")
        rows = materialise_documents(documents)
        if not rows:
            raise ValueError("documents must not be empty")
        passes, problems = self._plan(rows)
        failures = tuple(
            Failure(each.document, DocumentError(each.document, each.chunk, each.reason), 0) for each in problems
        )
        failed = {failure.document for failure in failures}
        counts = [0 if position in failed else len(chunks) for position, chunks in enumerate(rows)]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        means = np.empty((0, width))
        if not failures or on_error == "return":
            means = self._means(passes, width, check)
        is_binary = encoding_format == "base64_binary"
        vectors: NDArray[Any] = np.packbits(means >= 0, axis=1, bitorder="little") if is_binary else codes(means)
        tokens = sum(len(each.ids) for each in passes)
        found = Embeddings(
            vectors,
            offsets if len(means) == offsets[-1] else np.zeros_like(offsets),
            self.model.name,
            width,
            encoding_format,
            Usage(tokens, tokens, _NOTHING) if len(means) else Usage(),
            failures,
            self.model.space_of(width),
            role,
        )
        if failures and on_error == "raise":
            more = "" if len(failures) == 1 else f"; ... and {len(failures) - 1} more in .problems"
            message = (
                f"nothing was embedded: {len(failures)} of {len(rows)} documents cannot be; {failures[0].error}{more}"
            )
            raise InvalidDocumentsError(message, found, failures, tuple(problems))
        self._disclose(passes, len(rows) - len(failures))
        return found

    def embed_queries(
        self,
        queries: Iterable[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
    ) -> Embeddings:
        """Embed queries, each as a document of one chunk.

        Parameters
        ----------
        queries : iterable of str
            The queries.
        model, dimensions, encoding_format
            As in :meth:`embed`.

        Returns
        -------
        Embeddings
            ``vectors`` has one row a query, in order.

        Raises
        ------
        TypeError
            ``queries`` is a single str, or holds something else than str.
        InvalidDocumentsError, ValueError
            As in :meth:`embed`.
        """
        if isinstance(queries, str):
            raise TypeError("queries must be an iterable of str, got one str: pass [query]")
        return self.embed(
            [[query] for query in iterate("queries", queries)],
            model=model,
            dimensions=dimensions,
            encoding_format=encoding_format,
            input_type="query" if self.model.input_types else None,
        )

    def stream(
        self,
        documents: Iterable[Iterable[str]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        on_error: str = "raise",
    ) -> LocalStream:
        """Embed documents of an iterable of any length, some at a time.

        Parameters
        ----------
        documents : iterable of iterables of str
            Read as they are needed.
        model, dimensions, encoding_format, on_error
            As in :meth:`embed`.

        Returns
        -------
        LocalStream
            An iterator of ``EmbeddingsPart`` in input order. ``close()``, from any thread, ends it before its next
            pass.
        """
        from ctxembed._backends.onnx.stream import LocalStream

        self._check(model, dimensions, encoding_format)
        options = {"dimensions": dimensions, "encoding_format": encoding_format, "on_error": on_error}
        return LocalStream(self.embed, documents, options)

    def count_tokens(self, documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Count the tokens of each document, separators and special tokens included, as ``usage`` does.

        Parameters
        ----------
        documents : sequence of sequence of str
            Chunks of each document.

        Returns
        -------
        ndarray of int64, shape (n_documents,)
            A document that is cut counts what its windows repeat, too.
        """
        counts = np.zeros(len(documents), np.int64)
        passes, problems = self._plan(documents)
        for each in passes:
            counts[each.document] += len(each.ids)
        if problems:  # they were not planned
            refused = sorted({problem.document for problem in problems})
            counts[refused] = self._tokenizer.count([documents[position] for position in refused])
        return counts

    def count_windows(self, documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Count the passes of each document: 1 where all of its chunks see each other.

        Parameters
        ----------
        documents : sequence of sequence of str
            Chunks of each document.

        Returns
        -------
        ndarray of int64, shape (n_documents,)
            0 for a document that cannot be embedded.
        """
        positions = [each.document for each in self._plan(documents)[0]]
        return np.bincount(np.array(positions, np.int64), minlength=len(documents)).astype(np.int64)

    def space(self, model: str, dimensions: int) -> str:
        """Return the space of the vectors: the model's name and the digest of its weights.

        Parameters
        ----------
        model : str
            The embedder's own.
        dimensions : int
            Dimensions of the vectors.

        Returns
        -------
        str
        """
        self._check(model, None, "base64_int8")
        return self.model.space_of(dimensions)

    def _check(self, model: str | None, dimensions: int | None, encoding_format: str) -> int:
        if model is not None and model != self.model.name:
            raise ValueError(f"model {model!r} is unknown: the embedder has {self.model.name!r}")
        return check_dimensions(self.model, dimensions, encoding_format)

    def _plan(self, documents: Sequence[Sequence[str]]) -> tuple[list[Pass], list[Problem]]:
        """Return the passes of all documents, and one problem for each that cannot be embedded."""
        chunks = list(chain.from_iterable(documents))
        offsets = np.zeros(len(documents) + 1, np.int64)
        np.cumsum([len(document) for document in documents], out=offsets[1:])
        first: dict[int, Problem] = {}
        faults = _core.check_chunks(chunks, None)[1]
        for problem in chunk_problems(faults, offsets, 0, None):
            first.setdefault(problem.document, problem)
        for position, document in enumerate(documents):
            if not len(document):
                first[position] = Problem(position, None, "has no chunks: a document needs at least one")
        sound = [position for position in range(len(documents)) if position not in first]
        ids = iter(self._tokenizer.encode([chunk for position in sound for chunk in documents[position]]))
        passes: list[Pass] = []
        for position in sound:
            try:
                passes += self._planner.plan(position, [next(ids) for _ in documents[position]])
            except DocumentError as error:
                first[position] = Problem(position, error.chunk, error.reason)
        return passes, [first[position] for position in sorted(first)]

    def _means(self, passes: list[Pass], width: int, check: Callable[[], object] | None) -> NDArray[np.float64]:
        starts = np.zeros(len(passes) + 1, np.int64)
        np.cumsum([len(each.spans) for each in passes], out=starts[1:])
        means = np.empty((int(starts[-1]), width))
        for batch in batches([len(each.ids) for each in passes], self.batch_tokens):
            if check is not None:
                check()
            found = self._session.run([passes[position].ids for position in batch], self._tokenizer.padding)
            for position, states in zip(batch, found, strict=True):
                kept = mean_states(states[:, :width], passes[position].spans)
                means[starts[position] : starts[position + 1]] = kept
        return means

    def _disclose(self, passes: list[Pass], documents: int) -> None:
        if len(passes) > documents:
            _LOG.info(
                "%s: %d documents went through the model in %d windows of at most %d tokens: chunks of one window do "
                "not see the others",
                self.model.name,
                documents,
                len(passes),
                self.context_tokens,
            )
