"""The vectors that an evaluation pays for: of queries, and of chunks that are embedded alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._client.base import BaseClient
from ctxembed._collection.journal_folder import JournalFolder
from ctxembed._errors import SpaceError
from ctxembed._jobs.run import check_client
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._planning.plan import plan
from ctxembed._results import NO_USAGE, InvalidDocumentsError, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._evaluation.corpus import StoredCorpus
    from ctxembed._models import Model
    from ctxembed._planning.plan import Plan
    from ctxembed._results import Embeddings

__all__ = ["Embedding", "kept_folder", "plan_texts"]

_AT_ONCE: Final = 256
"""Texts that an embedder on this machine gets at once."""


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
        Folder that keeps what a client was paid for.
    """

    corpus: StoredCorpus
    client: Any
    keep: Path | None
    usage: Usage = NO_USAGE

    def __post_init__(self) -> None:
        self._own: Any = None
        if self.client is not None:
            check_client(self.client, is_async=False, calls=("evaluate", "an async version of evaluate"))

    def close(self) -> None:
        """Close the client, where it is one of the environment."""
        if self._own is not None:
            self._own.close()

    def _opened(self) -> Any:
        if self.client is None:
            from ctxembed._client import Client

            self.client = self._own = Client()
        return self.client

    def _journal(self) -> Any:
        other = self.client._options["journal"] if isinstance(self.client, BaseClient) else None  # noqa: SLF001
        return other if self.keep is None else _Kept(self.keep, self.corpus.space, other)

    def queries(self, ids: Sequence[str], texts: Sequence[str]) -> NDArray[np.int8]:
        """Return the int8 vectors of queries, shape (queries, dimensions)."""
        return self._embedded("embed_queries", texts, "base64_int8", lambda place: f"query {ids[place]!r:.100}")

    def alone(self, chunks: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of chunks that are documents of their own."""
        corpus = self.corpus

        def name(place: int) -> str:
            document = corpus.ids[corpus.document_of[place]]
            return f"chunk {place - corpus.extent(place)[0]} of {document!r:.100}, alone"

        return self._embedded("embed", chunks, corpus.encoding_format, name)

    def _embedded(
        self, method: str, texts: Sequence[str], encoding_format: str, name: Callable[[int], str]
    ) -> NDArray[Any]:
        client = self._opened()
        if not callable(getattr(client, method, None)):
            raise TypeError(f"client must be a Client or have {method}(...), got {type(client).__name__}")
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        distinct = [*places]
        options = {
            "model": self.corpus.model.name,
            "dimensions": self.corpus.dimensions,
            "encoding_format": encoding_format,
        }
        at_once = _AT_ONCE
        if isinstance(client, BaseClient):
            client, at_once = self._storing(client), len(distinct)
        rows = []
        for start in range(0, len(distinct), at_once):
            part = distinct[start : start + at_once]
            try:
                found: Embeddings = getattr(client, method)(
                    part if method == "embed_queries" else [[text] for text in part], **options
                )
            except InvalidDocumentsError as error:
                message = "; ".join(
                    f"{name(places[part[problem.document]][0])}: {problem.reason}" for problem in error.problems
                )
                raise InvalidDocumentsError(message, error.partial, error.failures, error.problems) from error
            check_space(self.corpus.space, found.space)
            self.usage += found.usage
            rows.append(found.vectors)
        matrix = np.concatenate(rows)
        result = np.empty((len(texts), matrix.shape[1]), matrix.dtype)
        for row, text in zip(matrix, distinct, strict=True):
            result[places[text]] = row
        return result

    def _storing(self, client: Any) -> Any:
        """Return a copy of a client that stores each response before it is handed out."""
        return client.with_options(journal=self._journal())

    # --- prices ---

    def plans(self, queries: Sequence[str], chunks: Sequence[str]) -> tuple[list[Plan], int]:
        """Return the plan of each pass that is needed, and the number of texts that are kept from an earlier one."""
        found, kept = [], 0
        for texts, role, encoding_format in (
            (queries, "query", "base64_int8"),
            (chunks, "document", self.corpus.encoding_format),
        ):
            distinct = [*dict.fromkeys(texts)]
            missing = self._missing(distinct, role, encoding_format)
            kept += len(distinct) - len(missing)
            if missing:
                found.append(self.plan([[text] for text in missing]))
        return found, kept

    def _missing(self, texts: list[str], role: Any, encoding_format: Any) -> list[str]:
        journal = self._journal() if self.client is None or isinstance(self.client, BaseClient) else None
        if journal is None or not texts:
            return texts
        corpus = self.corpus
        keys = DocumentKeys(corpus.model.name, corpus.dimensions, encoding_format, role)
        key_of = {text: keys.key([text]) for text in texts}
        known = journal.get([*key_of.values()])
        return [text for text, key in key_of.items() if key not in known]

    def plan(self, documents: Iterable[list[str]]) -> Plan:
        """Return the plan of documents, as the client would send them."""
        return plan_texts(self.corpus.model, self.client, [*documents])


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
