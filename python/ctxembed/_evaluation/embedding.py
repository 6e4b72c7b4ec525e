"""The vectors that an evaluation pays for: of queries, and of chunks that are embedded alone."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._client.base import BaseClient
from ctxembed._client.journal import ResponseRows
from ctxembed._collection.journal_folder import JournalFolder
from ctxembed._errors import APIError, SpaceError
from ctxembed._jobs.run import check_client
from ctxembed._models import get_model
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._planning.limits import Limits
from ctxembed._planning.plan import plan
from ctxembed._results import NO_USAGE, EmbedError, InvalidDocumentsError, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._evaluation.corpus import StoredCorpus
    from ctxembed._models import InputType, Model
    from ctxembed._planning.plan import Plan
    from ctxembed._results import Embeddings

__all__ = ["Embedding", "kept_folder", "plan_texts"]

_AT_ONCE: Final = 256
"""Queries of a request, and texts that an embedder on this machine gets at once."""


def kept_folder(corpus: StoredCorpus, keep: object) -> Path | None:
    """Return the folder that keeps what is paid for; None for none.

    Raises
    ------
    TypeError
        ``keep`` is no path, None or False.
    """
    if keep is False:
        return None
    if keep is not None and not (isinstance(keep, str | Path) or hasattr(keep, "__fspath__")):
        raise TypeError(f"keep must be a path, None or False, got {keep!r:.100}")
    folder = Path(f"{corpus.collection.path}.eval" if keep is None else keep)
    # Vectors of one model may be of several spaces: those of the API, and those of a stand-in for it.
    return folder / hashlib.sha256((corpus.space or "").encode()).hexdigest()[:16]


class _Kept:
    """The journal of an evaluation: what was paid for is in a folder, and in the journal that the client has."""

    def __init__(self, folder: Path, space: str | None, other: Any) -> None:
        self._folder = folder
        self._space = space
        self._other = other
        self._journal: JournalFolder | None = None

    def _opened(self) -> JournalFolder:
        if self._journal is None:
            self._journal = JournalFolder(self._folder)
        return self._journal

    def get(self, keys: list[bytes], /) -> Mapping[bytes, NDArray[Any]]:
        found = dict(self._opened().get(keys)) if self._folder.is_dir() else {}
        missing = [key for key in keys if key not in found]
        return {**found, **self._other.get(missing)} if missing and self._other is not None else found

    def put(self, rows: dict[bytes, NDArray[Any]], usage: Usage, /) -> None:
        check_space(self._space, getattr(rows, "space", None))
        self._opened().put(rows, usage)
        if self._other is not None:
            self._other.put(rows, usage)


def check_space(stored: str | None, found: str | None) -> None:
    """Refuse vectors of another space.

    Raises
    ------
    SpaceError
        They cannot be compared.
    """
    if stored is not None and found is not None and stored != found:
        raise SpaceError(
            f"the documents are of the space {stored!r}, and the client embeds in the space {found!r}: they cannot be "
            "compared. Use the API, server or model that embedded the documents"
        )


@dataclass
class Embedding:
    """Embeds for a collection, and counts what that costs.

    Parameters
    ----------
    corpus : StoredCorpus
        The collection.
    client : Client or object or None
        A client, or whatever has ``embed`` and ``embed_queries``; None for a client of the environment.
    keep : Path or None
        Folder that keeps what a client was paid for, and what a model on this machine has computed.
    """

    corpus: StoredCorpus
    client: Any
    keep: Path | None
    usage: Usage = NO_USAGE

    def __post_init__(self) -> None:
        self._own: Any = None
        if self.client is not None:
            if isinstance(self.client, BaseClient) and self.client._is_async:  # noqa: SLF001
                raise TypeError("evaluate() needs a Client, got an AsyncClient")
            check_client(self.client, is_async=False)

    def close(self) -> None:
        """Close the client, where it is one of the environment."""
        if self._own is not None:
            self._own.close()

    def queries(self, ids: Sequence[str], texts: Sequence[str]) -> NDArray[Any]:
        """Return the int8 vectors of queries, shape (queries, dimensions)."""
        client = self._opened("embed_queries")
        known = self._kept([*dict.fromkeys(texts)], "query")
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        for part in _parts(missing, self._queries_at_once()):
            with self._stored(part):
                found = self._call(client.embed_queries, part, "base64_int8", lambda text: _query(ids, texts, text))
                self._keep(part, found, "query")
            known.update(zip(part, found.vectors, strict=True))
        return np.stack([known[text] for text in texts])

    def alone(self, chunks: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of chunks that are documents of their own."""
        client = self._opened("embed")
        known = self._alone_already(chunks)
        missing = [text for text in dict.fromkeys(chunks) if text not in known]
        at_once, is_client = _AT_ONCE, isinstance(client, BaseClient)
        if is_client:  # it stores each response before it is handed out
            at_once = max(1, len(missing))
            client = client.with_options(journal=self._journal())
        for part in _parts(missing, at_once):
            documents, encoding_format = [[text] for text in part], self.corpus.encoding_format
            found = self._call(
                client.embed, documents, encoding_format, lambda texts: _chunk(self.corpus, chunks, texts[0])
            )
            if not is_client:
                self._keep(part, found, "document")
            known.update(zip(part, found.vectors, strict=True))
        return np.stack([known[text] for text in chunks])

    def _opened(self, method: str) -> Any:
        if self.client is None:
            from ctxembed._client import Client

            self.client = self._own = Client()
        if not callable(getattr(self.client, method, None)):
            raise TypeError(f"client must be a Client or have {method}(...), got {type(self.client).__name__}")
        return self.client

    def _call(self, embed: Any, texts: list[Any], encoding_format: str, name: Callable[[Any], str]) -> Embeddings:
        """Embed some texts. An error of one names what it is."""
        corpus = self.corpus
        options: dict[str, Any] = {
            "model": corpus.model,
            "dimensions": corpus.dimensions,
            "encoding_format": encoding_format,
        }
        if not isinstance(texts[0], str):
            options["on_error"] = "raise"
        try:
            found: Embeddings = embed(texts, **options)
        except InvalidDocumentsError as error:
            message = "; ".join(f"{name(texts[problem.document])}: {problem.reason}" for problem in error.problems)
            raise InvalidDocumentsError(message, error.partial, error.failures, error.problems) from error
        check_space(corpus.space, found.space)
        self.usage += found.usage
        return found

    # --- what is kept ---

    def _alone_already(self, chunks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the rows of chunks that are documents of their own in the collection, or in what is kept."""
        corpus = self.corpus
        single = corpus.offsets[:-1][np.diff(corpus.offsets) == 1].tolist()
        known = {chunks[row]: corpus.vectors[row] for row in single}
        return known | self._kept([text for text in dict.fromkeys(chunks) if text not in known], "document")

    def _journal(self) -> Any:
        other = self.client._options["journal"] if isinstance(self.client, BaseClient) else None  # noqa: SLF001
        return other if self.keep is None else _Kept(self.keep, self.corpus.space, other)

    @cached_property
    def _store(self) -> _Kept | None:
        """What keeps vectors: of a client, and of a model on this machine whose space names its weights."""
        model = None if isinstance(self.client, BaseClient) else getattr(self.client, "model", None)
        is_known = self.client is None or isinstance(self.client, BaseClient) or getattr(model, "digest", None)
        return _Kept(self.keep, self.corpus.space, None) if self.keep is not None and is_known else None

    def _keys(self, texts: Sequence[str], role: InputType) -> dict[str, bytes]:
        corpus = self.corpus
        encoding_format = "base64_int8" if role == "query" else corpus.encoding_format
        keys = DocumentKeys(corpus.model, corpus.dimensions, encoding_format, role)
        return {text: keys.key([text]) for text in texts}

    def _kept(self, texts: list[str], role: InputType) -> dict[str, NDArray[Any]]:
        """Return the vectors that an earlier evaluation has kept."""
        store = self._store
        if store is None or not texts:
            return {}
        keys = self._keys(texts, role)
        found = store.get([*keys.values()])
        return {text: found[key][0] for text, key in keys.items() if key in found}

    def _keep(self, texts: list[str], found: Embeddings, role: InputType) -> None:
        store = self._store
        if store is None:
            return
        keys = self._keys(texts, role)
        rows = ResponseRows((keys[text], row) for text, row in zip(texts, found, strict=True) if len(row))
        rows.space = found.space
        if rows:
            store.put(rows, found.usage)

    @contextmanager
    def _stored(self, texts: list[str]) -> Iterator[None]:
        """Keep what a call has got that ends with an error."""
        try:
            yield
        except (EmbedError, APIError, KeyboardInterrupt) as error:
            partial = getattr(error, "partial", None)
            if partial is not None and len(partial) == len(texts) and len(partial.vectors):
                self._keep(texts, partial, "query")
            raise

    def _queries_at_once(self) -> int:
        """Return how many queries one request takes, so that each is stored before the next is sent."""
        limits = self.client._options["limits"] if isinstance(self.client, BaseClient) else Limits()  # noqa: SLF001
        return min(_AT_ONCE, limits.documents)

    # --- prices ---

    def plans(self, queries: Sequence[str], chunks: Sequence[str]) -> tuple[list[Plan], int]:
        """Return the plan of each call that is needed, and the number of texts that are there already."""
        asked = [*dict.fromkeys(queries)]
        kept = self._kept(asked, "query")
        missing = [text for text in asked if text not in kept]
        found = [self.plan([[text] for text in part]) for part in _parts(missing, self._queries_at_once())]
        known = self._alone_already(chunks) if chunks else {}
        alone = [text for text in dict.fromkeys(chunks) if text not in known]
        journal = self._journal() if isinstance(self.client, BaseClient) else None
        if journal is not None and alone:  # that of the client may have more
            keys = self._keys(alone, "document")
            stored = journal.get([*keys.values()])
            alone = [text for text in alone if keys[text] not in stored]
        if alone:
            found.append(self.plan([[text] for text in alone]))
        return found, len({*queries}) + len({*chunks}) - len(missing) - len(alone)

    def plan(self, documents: Iterable[list[str]]) -> Plan:
        """Return the plan of documents, as the client would send them."""
        return plan_texts(get_model(self.corpus.model, contextualized=True), self.client, [*documents])


def plan_texts(model: Model, client: Any, documents: list[list[str]]) -> Plan:
    """Return the plan of documents: with the limits and the token counter of a client, or the tokens of an embedder."""
    if isinstance(client, BaseClient):
        options = client._options  # noqa: SLF001
        return plan(documents, model=model.name, token_counter=options["token_counter"], limits=options["limits"])
    if not callable(getattr(client, "count_tokens", None)):
        return plan(documents, model=model.name)
    # A model on this machine sends nothing, and counts as it is used.
    tokens = int(np.sum(client.count_tokens(documents)))
    price = model.cost(tokens)
    return replace(
        plan(documents[:1], model=model.name),
        documents=len(documents),
        chunks=sum(map(len, documents)),
        requests=0,
        tokens=tokens,
        tokens_upper=tokens,
        exact_tokens=True,
        cost_usd=price,
        cost_usd_upper=price,
        problems=(),
    )


def _parts(texts: list[str], at_once: int) -> Iterator[list[str]]:
    return (texts[start : start + at_once] for start in range(0, len(texts), at_once))


def _query(ids: Sequence[str], texts: Sequence[str], text: str) -> str:
    return f"query {ids[texts.index(text)]!r:.100}"


def _chunk(corpus: StoredCorpus, chunks: Sequence[str], text: str) -> str:
    row = chunks.index(text)
    return f"chunk {row - corpus.extent(row)[0]} of {corpus.ids[corpus.document_of[row]]!r:.100}, alone"
