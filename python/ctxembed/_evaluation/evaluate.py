"""``ctxembed.evaluate``: what each variant of search is worth, on queries that are judged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ctxembed._costs import add_costs
from ctxembed._evaluation import measures
from ctxembed._evaluation.bootstrap import Bootstrap
from ctxembed._evaluation.corpus import StoredCorpus, open_corpus
from ctxembed._evaluation.embedding import Embedding, kept_folder, plan_texts
from ctxembed._evaluation.judged import check_queries
from ctxembed._evaluation.ranks import Ranker
from ctxembed._evaluation.result import Evaluation, EvaluationPlan
from ctxembed._evaluation.variants import chosen_variants
from ctxembed._jobs.budget import amount_of
from ctxembed._models import as_int, get_model
from ctxembed._results import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    from ctxembed._collection.collection import Collection
    from ctxembed._evaluation.corpus import Corpus
    from ctxembed._evaluation.judged import JudgedQueries
    from ctxembed._evaluation.reading import JudgedCorpus
    from ctxembed._evaluation.variants import Variant
    from ctxembed._planning.plan import Plan

__all__ = ["evaluate", "plan_documents", "plan_evaluation"]

_ARMS: Final = ("context", "isolated")
_TIMED_HITS: Final = 10
_TIMED_SECONDS: Final = 0.2
CONFIDENCE: Final = 0.95


class _Inputs:
    """The arguments of an evaluation, checked before anything is paid for."""

    def __init__(
        self,
        collection: object,
        queries: object,
        judgements: object,
        *,
        client: Any,
        k: object,
        variants: Iterable[str] | None,
        arms: Iterable[str],
        by: Literal["document", "chunk"] | None,
        skip_unjudged: bool,
        allow_missing: bool,
        keep: object,
    ) -> None:
        self.ks = _cuts(k)
        self.arms = _arms(arms)
        self.corpus: Corpus = open_corpus(collection)
        self.judged: JudgedQueries = check_queries(
            self.corpus, queries, judgements, by=by, skip_unjudged=skip_unjudged, allow_missing=allow_missing
        )
        self.variants = chosen_variants(variants, self.corpus, self.judged.kind)
        self._try_variants()
        self.embedding: Embedding | None = None
        if isinstance(self.corpus, StoredCorpus):
            self.embedding = Embedding(self.corpus, client, kept_folder(self.corpus, keep))
        elif self.judged.kind == "text":
            raise TypeError("queries are texts, and the documents vectors without a model: expected vectors of queries")
        elif "isolated" in self.arms:
            raise TypeError("arms: 'isolated' embeds the chunks of a collection, and there are vectors alone")

    def _try_variants(self) -> None:
        """Let the index refuse what it cannot do, such as the number of dimensions, and build the index of words."""
        empty = self.corpus.index_of(self.corpus.vectors[:0])
        is_bits = self.judged.kind == "bits"
        query = np.zeros(
            self.corpus.dimensions // 8 if is_bits else self.corpus.dimensions, np.uint8 if is_bits else np.int8
        )
        for variant in self.variants:
            try:
                variant.search(empty, query, 1)
            except ValueError as error:
                raise ValueError(f"variants: {variant.name!r}: {error}") from None
            if variant.method == "hybrid" and isinstance(self.corpus, StoredCorpus):
                self.corpus.words()

    def texts(self) -> list[str]:
        """Return the queries that are embedded."""
        return self.judged.values if self.judged.kind == "text" else []

    @cached_property
    def chunks(self) -> list[str]:
        """All chunks, in the order of the rows."""
        if not isinstance(self.corpus, StoredCorpus):
            return []
        return [chunk for document in self.corpus.texts() for chunk in document]

    def planned(self) -> EvaluationPlan:
        """Return the price of what is to be sent."""
        if self.embedding is None:
            return EvaluationPlan(0, 0, 0, 0, 0, 0, 0, True, None, None, "")
        texts, chunks = self.texts(), self.chunks if "isolated" in self.arms else []
        plans, kept = self.embedding.plans(texts, chunks)
        model = self.embedding.corpus.model
        return _sum_of(plans, model, queries=len({*texts}), chunks=len({*chunks}), kept=kept)


def evaluate(
    collection: Collection | Mapping[str, Any],
    queries: Mapping[str, Any],
    judgements: Mapping[str, Mapping[Any, int]],
    *,
    client: Any = None,
    k: int | Sequence[int] = (1, 10, 100),
    variants: Iterable[str] | None = None,
    arms: Iterable[str] = ("context",),
    by: Literal["document", "chunk"] | None = None,
    skip_unjudged: bool = False,
    allow_missing: bool = False,
    keep: str | PathLike[str] | Literal[False] | None = None,
    max_cost_usd: Any = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Evaluation:
    """Measure the quality of search on judged queries: of int8 vectors, bits, prefixes, two stages, words.

    Parameters
    ----------
    collection : Collection or mapping of str to ndarray
        What is searched: a collection, or the vectors of each document's chunks by its id, shape (chunks, width), int8
        or packed bits.
    queries : mapping of str to str or ndarray
        By id: texts, which ``client`` embeds once, or vectors.
    judgements : mapping of str to mapping
        For each query the grade of a document's id, or of (document id, chunk): an integer, 0 for what is not
        relevant. Documents that are judged are met by their best chunk.
    client : Client or object, optional
        Embeds what has to be: a :class:`Client`, or whatever has ``embed_queries`` and, for ``"isolated"``, ``embed``.
        Default: ``Client()``, with the key of the environment.
    k : int or sequence of int
        Cuts of nDCG, recall and success. MRR and MAP are over the whole ranking.
    variants : iterable of str, optional
        ``"int8"``, ``"bits"`` (of both sides), ``"asymmetric"`` (int8 queries, bits of the rows), ``"two-stage"`` with
        the oversample of the collection, or ``"two-stage:4"`` with another, ``"hybrid"`` (words too);
        ``"int8@256"`` for a prefix of 256 dimensions. Default: a grid of all that the vectors allow.
    arms : iterable of {"context", "isolated"}
        ``"context"``: the vectors as they are. ``"isolated"``: each chunk is embedded alone as well, and
        ``comparisons`` says what context is worth.
    by : {"document", "chunk"}, optional
        What is ranked. Default: chunks where chunks are judged. With ``"document"``, a document is as relevant as its
        most relevant chunk.
    skip_unjudged : bool
        Whether queries without a judgement are left out. Default: they are an error.
    allow_missing : bool
        Whether judged documents and chunks that are not there count as never found. Default: they are an error, unless
        they are among ``collection.failures()``.
    keep : path or False, optional
        A folder that keeps the vectors that a :class:`Client` was paid for, or a model on this machine has computed, so
        that the next evaluation, or the same one after an interruption, does not pay for them again. Default:
        ``COLLECTION.eval`` beside the collection. False: they are not kept.
    max_cost_usd : Decimal, float or int, optional
        Nothing is sent where that would cost more, as :func:`plan_evaluation` prices it: a part of an evaluation says
        nothing.
    seed, resamples : int
        Of the bootstrap over queries, which gives the intervals of 95%.

    Returns
    -------
    Evaluation
        Its ``table`` has a row for each variant and arm.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be. The message names query, document and value, and file and line where they
        were read by :func:`read_queries` or :func:`read_judgements`. Nothing was paid.
    SpaceError
        The client embeds in another space than that of the documents.
    EmbedError, APIError
        Queries or chunks could not be embedded.
    CollectionError
        The collection is damaged, or has no texts for ``"isolated"``.
    ModuleNotFoundError
        The extra ``hybrid`` is not installed.

    Notes
    -----
    The measures are those of trec_eval. Equal scores are ordered by id, then chunk, ascending; only BM25, inside a
    hybrid search, ranks ties in the order of ingestion. Two stages and words choose their hits among some rows: what
    they leave out follows, for MRR and MAP, in the order of the bits or the vectors.

    The vectors are copied into memory. Searches a second are measured one after the other, for ten chunks, without the
    time that embedding a query takes. ``usd`` is the list price of embedding the documents once, as the arm does;
    None where the price or the texts are not known.

    Examples
    --------
    >>> import numpy as np
    >>> rows = {"heron": np.array([[90, 10], [20, 80]], np.int8), "rust": np.array([[-50, 70]], np.int8)}
    >>> result = evaluate(rows, {"q": np.array([80, 20], np.int8)}, {"q": {"heron": 1}}, k=1, variants=["int8"])
    >>> result.table[0]["ndcg@1"], result.table[0]["bytes"]
    (1.0, 2)
    """
    draws = as_int("resamples", resamples), as_int("seed", seed)
    if draws[0] < 100 or draws[1] < 0:
        raise ValueError(f"resamples must be at least 100 and seed at least 0, got {resamples} and {seed}")
    inputs = _Inputs(
        collection, queries, judgements, client=client, k=k, variants=variants, arms=arms, by=by,
        skip_unjudged=skip_unjudged, allow_missing=allow_missing, keep=keep,
    )  # fmt: skip
    try:
        if max_cost_usd is not None:
            _check_cost(inputs.planned(), max_cost_usd)
        return _Run(inputs, Bootstrap(len(inputs.judged.ids), *draws, CONFIDENCE)).result(*draws)
    finally:
        if inputs.embedding is not None:
            inputs.embedding.close()


def plan_evaluation(
    collection: Collection | Mapping[str, Any],
    queries: Mapping[str, Any],
    judgements: Mapping[str, Mapping[Any, int]],
    *,
    client: Any = None,
    k: int | Sequence[int] = (1, 10, 100),
    variants: Iterable[str] | None = None,
    arms: Iterable[str] = ("context",),
    by: Literal["document", "chunk"] | None = None,
    skip_unjudged: bool = False,
    allow_missing: bool = False,
    keep: str | PathLike[str] | Literal[False] | None = None,
) -> EvaluationPlan:
    """Price an evaluation. Everything is checked, and nothing is sent.

    Parameters
    ----------
    collection, queries, judgements, client, k, variants, arms, by, skip_unjudged, allow_missing, keep
        As in :func:`evaluate`. No client is needed; tokens are counted exactly where it has a token counter.

    Returns
    -------
    EvaluationPlan
        Tokens and price of what would be sent.

    Raises
    ------
    TypeError, ValueError, CollectionError, ModuleNotFoundError
        As :func:`evaluate` raises.
    """
    inputs = _Inputs(
        collection, queries, judgements, client=client, k=k, variants=variants, arms=arms, by=by,
        skip_unjudged=skip_unjudged, allow_missing=allow_missing, keep=keep,
    )  # fmt: skip
    return inputs.planned()


def plan_documents(judged: JudgedCorpus, client: Any, model: str, arms: Iterable[str]) -> EvaluationPlan:
    """Price an evaluation whose documents are not embedded yet."""
    documents = [[*document.chunks] for document in judged.documents if document.chunks]
    queries = [[text] for text in dict.fromkeys(judged.queries.values())]
    alone = {chunk: [chunk] for document in documents for chunk in document} if "isolated" in _arms(arms) else {}
    known = get_model(model, contextualized=True)
    plans = [plan_texts(known, client, texts) for texts in (documents, queries, [*alone.values()]) if texts]
    return _sum_of(plans, known.name, queries=len(queries), chunks=len(alone), documents=len(documents))


def _sum_of(
    plans: list[Plan], model: str, *, queries: int, chunks: int, documents: int = 0, kept: int = 0
) -> EvaluationPlan:
    if problems := [problem for found in plans for problem in found.problems]:
        raise ValueError(f"{len(problems)} texts cannot be embedded: {problems[0].reason}")
    tokens, upper = sum(found.tokens for found in plans), sum(found.tokens_upper for found in plans)
    return EvaluationPlan(
        documents=documents,
        queries=queries,
        chunks=chunks,
        kept=kept,
        requests=sum(found.requests for found in plans),
        tokens=tokens,
        tokens_upper=upper,
        exact_tokens=all(found.exact_tokens for found in plans),
        cost_usd=_cost(found.cost_usd for found in plans),
        cost_usd_upper=_cost(found.cost_usd_upper for found in plans),
        model=model,
    )


def _check_cost(planned: EvaluationPlan, max_cost_usd: object) -> None:
    """Refuse an evaluation that costs too much.

    Raises
    ------
    TypeError, ValueError
        It does, or its price is not known, or the limit is none.
    """
    most = amount_of(max_cost_usd)
    if not planned.requests:
        return
    if planned.cost_usd is None:
        raise ValueError(f"max_cost_usd needs a price, and that of {planned.model!r} is not known")
    if planned.cost_usd > most:
        raise ValueError(
            f"{planned.tokens:,} tokens would cost USD {planned.cost_usd:f}, which is more than "
            f"max_cost_usd={max_cost_usd}: they were not sent"
        )


def _cost(costs: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        total = add_costs(total, cost)
    return total


def _cuts(k: object) -> tuple[int, ...]:
    given = list(k) if isinstance(k, Iterable) and not isinstance(k, str | bytes) else [k]
    cuts = sorted({as_int("k", cut) for cut in given})
    if not cuts or cuts[0] < 1:
        raise ValueError(f"k must be one or more numbers of at least 1, got {k!r:.100}")
    return tuple(cuts)


def _arms(arms: Iterable[str]) -> list[str]:
    if isinstance(arms, str):
        raise TypeError(f"arms must be an iterable of names, got one str: pass [{arms!r}]")
    found = [*arms]
    if not found or any(arm not in _ARMS for arm in found) or len({*found}) != len(found):
        raise ValueError(f"arms must be 'context', 'isolated' or both, each once, got {found!r:.100}")
    return [arm for arm in _ARMS if arm in found]


class _Run:
    """An evaluation that is checked: embeds, ranks, measures."""

    def __init__(self, inputs: _Inputs, bootstrap: Bootstrap) -> None:
        self._inputs = inputs
        self._bootstrap = bootstrap
        self._values: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = {}
        self._exact_tokens = False

    def result(self, resamples: int, seed: int) -> Evaluation:
        """Return the evaluation."""
        inputs, corpus = self._inputs, self._inputs.corpus
        vectors = self._query_vectors()
        table = []
        for arm in inputs.arms:
            rows = self._rows(arm)
            price = self._price(arm)
            ranker = Ranker(corpus, corpus.index_of(rows), inputs.judged, vectors)
            table += [self._row(variant, arm, ranker, price) for variant in inputs.variants]
        comparisons = []
        if len(inputs.arms) == len(_ARMS):
            for variant in inputs.variants:
                found = self._difference((variant.name, "context"), (variant.name, "isolated"))
                comparisons.append({"variant": variant.name, "difference": found})
        stored = corpus if isinstance(corpus, StoredCorpus) else None
        return Evaluation(
            table=table,
            comparisons=comparisons,
            level=inputs.judged.level,
            k=inputs.ks,
            queries=len(inputs.judged.ids),
            documents=len(corpus.ids),
            chunks=len(corpus.document_of),
            model=None if stored is None else stored.model,
            dimensions=corpus.dimensions,
            usage=NO_USAGE if inputs.embedding is None else inputs.embedding.usage,
            exact_tokens=self._exact_tokens,
            seed=seed,
            resamples=resamples,
            confidence=CONFIDENCE,
            notes=tuple(inputs.judged.notes),
            query_ids=tuple(inputs.judged.ids),
            values=self._values,
        )

    def _query_vectors(self) -> NDArray[Any]:
        judged = self._inputs.judged
        if judged.kind != "text":
            return np.ascontiguousarray(np.stack(judged.values))
        assert self._inputs.embedding is not None  # noqa: S101  # _Inputs has checked it
        return self._inputs.embedding.queries(judged.ids, judged.values)

    def _rows(self, arm: str) -> NDArray[Any]:
        if arm == "context":
            return self._inputs.corpus.vectors
        assert self._inputs.embedding is not None  # noqa: S101  # _Inputs has checked it
        return self._inputs.embedding.alone(self._inputs.chunks)

    def _price(self, arm: str) -> Decimal | None:
        """Return the list price of embedding the documents as an arm does."""
        embedding, corpus = self._inputs.embedding, self._inputs.corpus
        if embedding is None or not isinstance(corpus, StoredCorpus) or not corpus.view.store_text:
            return None
        if corpus.known_model is None or corpus.known_model.usd_per_million_tokens is None:
            return None
        documents = corpus.texts() if arm == "context" else ([chunk] for chunk in dict.fromkeys(self._inputs.chunks))
        found = embedding.plan(documents)
        self._exact_tokens = found.exact_tokens
        return found.cost_usd

    def _row(self, variant: Variant, arm: str, ranker: Ranker, price: Decimal | None) -> dict[str, Any]:
        inputs = self._inputs
        names = measures.names(inputs.ks)
        values = np.empty((len(inputs.judged.ids), len(names)))
        grades = inputs.judged.grades
        for number, ranks in enumerate(ranker.ranks(variant, inputs.ks)):
            values[number] = [
                *(measures.ndcg(ranks.first[k], grades[number], k) for k in inputs.ks),
                *(measures.recall(ranks.first[k], k) for k in inputs.ks),
                *(measures.success(ranks.first[k], k) for k in inputs.ks),
                measures.reciprocal_rank(ranks.whole),
                measures.average_precision(ranks.whole),
            ]
        first = (inputs.variants[0].name, arm)
        self._values[variant.name, arm] = {name: values[:, column] for column, name in enumerate(names)}
        intervals = self._bootstrap.intervals(values)
        return {
            "variant": variant.name,
            "arm": arm,
            **{name: float(mean) for name, mean in zip(names, values.mean(axis=0), strict=True)},
            "bytes": variant.bytes(inputs.corpus),
            "queries_per_second": self._searches_per_second(variant, ranker),
            "usd": price,
            "intervals": {name: (float(low), float(high)) for name, (low, high) in zip(names, intervals, strict=True)},
            "difference": None if first[0] == variant.name else self._difference((variant.name, arm), first),
        }

    def _difference(self, one: tuple[str, str], other: tuple[str, str]) -> dict[str, tuple[float, float, float]]:
        """Return (mean, low, high) of each measure of one row less that of another, over the same queries."""
        names = [*self._values[one]]
        both = np.stack([self._values[one][name] - self._values[other][name] for name in names], axis=1)
        intervals = self._bootstrap.intervals(both)
        means = both.mean(axis=0)
        return {
            name: (float(mean), float(low), float(high))
            for name, mean, (low, high) in zip(names, means, intervals, strict=True)
        }

    def _searches_per_second(self, variant: Variant, ranker: Ranker) -> float:
        """Measure searches for ten chunks, one after the other."""
        queries = len(self._inputs.judged.ids)
        ranker.ranking(variant, 0).best(_TIMED_HITS)  # warms up
        count, started, seconds = 0, time.perf_counter(), 0.0
        while seconds < _TIMED_SECONDS:
            ranker.ranking(variant, count % queries).best(_TIMED_HITS)
            count += 1
            seconds = time.perf_counter() - started
        return count / seconds
