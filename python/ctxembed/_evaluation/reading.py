"""Reads judged collections from files: the layouts of BEIR and ConTEB, TREC's judgements, JSON Lines, Parquet."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed._documents import Document
from ctxembed._evaluation.records import Places, Record, read_lines, read_records
from ctxembed._planning.chunking import chunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    from ctxembed._planning.prepare import CountsTokens

__all__ = ["JudgedCorpus", "read_judged", "read_judgements", "read_queries"]

_QUERY_IDS: Final = ("_id", "id", "query-id", "query_id", "qid")
_QUERY_TEXTS: Final = ("text", "query", "question")
_DOCUMENT_IDS: Final = ("document", "corpus-id", "corpus_id", "doc_id", "docid")
_JUDGING: Final = ("query-id", "query_id", "qid", "query")
_GRADES: Final = ("grade", "score", "relevance")
_LINES: Final = frozenset({".tsv", ".txt", ".qrels", ".trec"})
_COLUMNS: Final = "expected query, document and grade, or TREC's query, 0, document and grade"


class _Queries(dict[str, str]):
    """Queries by id, with the line of each."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.places = Places(source)

    def place_of(self, key: object) -> str:
        return self.places.place_of(key)


class _Judgements(defaultdict[str, dict[Any, int]]):
    """Grades by query, with the line of each."""

    def __init__(self, source: str) -> None:
        super().__init__(dict)
        self.places = Places(source)

    def place_of(self, key: object) -> str:
        return self.places.place_of(key)

    def add(self, place: str, query: str, target: str | tuple[str, int], grade: int) -> None:
        self.places.add((query, target), place, f"query {query!r:.100} judges {target!r:.100}")
        self[query][target] = grade


@dataclass(frozen=True)
class JudgedCorpus:
    """Documents, and queries with judgements of them.

    Parameters
    ----------
    documents : iterable of Document
        For :meth:`Collection.ingest`. It can be read more than once.
    queries : dict of str to str
        By id; only those that are judged.
    judgements : dict of str to dict
        For each query the grade of a document, or of (document, chunk).
    """

    documents: Iterable[Document]
    queries: dict[str, str]
    judgements: dict[str, dict[Any, int]]


def read_queries(path: str | PathLike[str], *, split: str = "test") -> dict[str, str]:
    """Read queries from a file, or from the folder of a judged collection.

    Parameters
    ----------
    path : str or os.PathLike
        JSON Lines or Parquet, with an id (``_id``, ``id``, ``query-id``) and a text (``text``, ``query``) in each
        record. In the layout of ConTEB, with ``chunk_id`` or ``chunk_ids``, a query without an id has the number of
        its line. Of a folder its ``queries.jsonl``, ``queries.parquet``, or what is in ``queries``.
    split : str
        Which files of a folder, by the start of their names, where there are several.

    Returns
    -------
    dict of str to str
        Texts by id. Errors of :func:`evaluate` about them name file and line.

    Raises
    ------
    ValueError
        A record is not what it should be, or two have one id. The message names file, line and value.
    OSError
        The file cannot be read.
    """
    place = Path(path)
    queries = _Queries(str(place))
    for record in _records(place, "queries", split):
        name = _query_id(record)
        queries.places.add(name, record.place, f"the query {name!r:.100}")
        text = record.first(_QUERY_TEXTS)
        if not isinstance(text, str) or not text.strip():
            raise record.error(
                f"query {name!r:.100} has no text: expected one of {', '.join(_QUERY_TEXTS)}, got {text!r:.60}"
            )
        queries[name] = text
    if not queries:
        raise ValueError(f"{place}: there are no queries")
    return queries


def read_judgements(
    path: str | PathLike[str], *, split: str = "test", chunk_ids: bool = False
) -> dict[str, dict[Any, int]]:
    """Read judgements from a file, or from the folder of a judged collection.

    Parameters
    ----------
    path : str or os.PathLike
        Lines of query, document and grade, apart by tabs or spaces, with or without the header of BEIR; TREC's lines
        of query, 0, document and grade; JSON Lines or Parquet with ``query-id``, ``document`` (or ``corpus-id``),
        optionally ``chunk``, and ``grade`` (or ``score``); or queries in the layout of ConTEB, whose ``chunk_id`` or
        ``chunk_ids`` are relevant. Of a folder ``qrels/SPLIT.tsv``, or its queries in the layout of ConTEB.
    split : str
        Which judgements of a folder.
    chunk_ids : bool
        Whether the documents that are named are chunks: ``DOCUMENT_CHUNK``, with the position of the chunk from 0.

    Returns
    -------
    dict of str to dict
        For each query the grade of a document, or of (document, chunk). Errors of :func:`evaluate` about them name file
        and line.

    Raises
    ------
    ValueError
        A record is not what it should be, or judges what one before it has judged. The message names file, line and
        value.
    OSError
        The file cannot be read.
    """
    place = Path(path)
    judgements = _Judgements(str(place))
    kind = "qrels" if (place / "qrels").is_dir() else "queries"
    if kind == "qrels" and not _files(place, kind, split):
        place = place / kind / f"{split}.tsv"
    if place.suffix.lower() in _LINES:
        _read_columns(place, judgements, chunk_ids=chunk_ids)
    else:
        for record in _records(place, kind, split):
            _read_judgement(record, judgements, chunk_ids=chunk_ids)
    if not judgements:
        raise ValueError(f"{place}: there are no judgements")
    judgements.default_factory = None
    return judgements


def read_judged(
    folder: str | PathLike[str],
    *,
    split: str = "test",
    chunk_tokens: int = 256,
    token_counter: CountsTokens | None = None,
) -> JudgedCorpus:
    """Read documents, queries and judgements of a folder in the layout of BEIR or ConTEB.

    Parameters
    ----------
    folder : str or os.PathLike
        BEIR: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``. ConTEB: ``documents`` with ``chunk_id``
        (``DOCUMENT_CHUNK``) and ``chunk``, and ``queries`` with ``query`` and ``chunk_id`` or ``chunk_ids``, each as
        ``.jsonl``, ``.parquet`` or a folder of them.
    split : str
        Which judgements, and which files of a folder of several splits.
    chunk_tokens : int
        Most tokens of a chunk of a text (BEIR), as for :func:`chunk`. The title is a chunk of its own, before them.
    token_counter : TokenCounter or callable, optional
        As for :func:`chunk`.

    Returns
    -------
    JudgedCorpus
        Its queries are those that have judgements.

    Raises
    ------
    ValueError
        A record is not what it should be. The message names file, line and value. Of documents it is raised when they
        are read.
    OSError
        There is no such folder, or a file of it cannot be read.
    ModuleNotFoundError
        Texts are cut, and the extra ``chunk`` is not installed; or the files are Parquet, and ``arrow`` is not.
    """
    place = Path(folder)
    if not place.is_dir():
        raise NotADirectoryError(20, "expected the folder of a judged collection", str(place))
    judgements = read_judgements(place, split=split)
    queries = _Queries(str(place))
    found = read_queries(place, split=split)
    queries.places = found.places  # type: ignore[attr-defined]
    queries.update({name: text for name, text in found.items() if name in judgements})
    documents: Iterable[Document]
    if _files(place, "documents", split):
        documents = _whole_documents(place, split)
    else:
        documents = _Corpus(place, split, chunk_tokens, token_counter)
    return JudgedCorpus(documents, queries, judgements)


# --- files ---


def _files(folder: Path, name: str, split: str = "") -> list[Path]:
    """Return the files of a part of a judged collection."""
    for ending in (".jsonl", ".parquet"):
        if (folder / f"{name}{ending}").is_file():
            return [folder / f"{name}{ending}"]
    inside = sorted(path for path in (folder / name).glob("*") if path.suffix in (".jsonl", ".parquet"))
    return [path for path in inside if path.name.startswith(split)] or inside


def _records(place: Path, name: str, split: str = "") -> Iterator[Record]:
    if not place.is_dir():
        yield from read_records(place)
        return
    files = _files(place, name, split)
    if not files:
        raise FileNotFoundError(2, f"there is no {name}.jsonl, {name}.parquet, or {name} with such files", str(place))
    before = 0
    for file in files:
        last = 0
        for record in read_records(file):
            last = record.number
            yield replace(record, number=before + last)
        before += last


def _query_id(record: Record) -> str:
    name = record.id_of(_QUERY_IDS)
    if name is None and ("chunk_id" in record.fields or "chunk_ids" in record.fields):
        return str(record.number)
    if name is None:
        raise record.error(f"has no id: expected one of {', '.join(_QUERY_IDS)}")
    return name


def _read_judgement(record: Record, judgements: _Judgements, *, chunk_ids: bool) -> None:
    fields = record.fields
    if "chunk_id" in fields or "chunk_ids" in fields:  # ConTEB
        query, named = _query_id(record), fields.get("chunk_ids", fields.get("chunk_id"))
        targets = named if isinstance(named, list) else [named]
        if not targets:
            raise record.error(f"query {query!r:.100} has no chunk_ids: expected at least one")
        for target in targets:
            judgements.add(record.place, query, _chunk_of(record.place, target), 1)
        return
    name, document = record.id_of(_JUDGING), record.id_of(_DOCUMENT_IDS)
    if name is None or document is None:
        raise record.error(
            f"expected query-id, document (or corpus-id) and grade (or score), got {', '.join(map(repr, fields))}"
        )
    grade = record.first(_GRADES)
    if isinstance(grade, bool) or not isinstance(grade, int):
        raise record.error(f"the grade of query {name!r:.100} must be an integer, got {grade!r:.60}")
    position = fields.get("chunk")
    if position is None:
        judgements.add(record.place, name, _chunk_of(record.place, document) if chunk_ids else document, grade)
        return
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise record.error(f"chunk must be a position from 0, got {position!r:.60}")
    judgements.add(record.place, name, (document, position), grade)


def _read_columns(path: Path, judgements: _Judgements, *, chunk_ids: bool) -> None:
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        columns = [column.strip() for column in line.split("\t")] if "\t" in line else line.split()
        if number == 1 and columns[-1].lower() in _GRADES:
            continue
        if len(columns) not in (3, 4) or not all(columns):
            raise ValueError(f"{place}: {_COLUMNS}, got {len(columns)} columns: {line!r:.60}")
        query, document, grade = columns[0], columns[-2], columns[-1]
        try:
            value = int(grade)
        except ValueError:
            raise ValueError(f"{place}: the grade must be an integer, got {grade!r:.60}") from None
        judgements.add(place, query, _chunk_of(place, document) if chunk_ids else document, value)


def _chunk_of(place: str, value: object) -> tuple[str, int]:
    """Return the document and the position in ``DOCUMENT_CHUNK``."""
    document, _, position = value.rpartition("_") if isinstance(value, str) else ("", "", "")
    if not document or not (position.isascii() and position.isdigit()):
        raise ValueError(
            f"{place}: the chunk id must be DOCUMENT_CHUNK, with a number from 0 behind it, got {value!r:.60}"
        )
    return document, int(position)


# --- documents ---


def _whole_documents(folder: Path, split: str) -> list[Document]:
    """Return the documents of ConTEB's chunks."""
    chunks: dict[str, dict[int, str]] = {}
    places: dict[str, Places] = {}
    for record in _records(folder, "documents", split):
        name, position = _chunk_of(record.place, record.fields.get("chunk_id"))
        text = record.fields.get("chunk")
        if not isinstance(text, str):
            raise record.error(f"chunk must be a text, got {text!r:.60}")
        places.setdefault(name, Places(str(folder))).add(position, record.place, f"chunk {position} of {name!r:.100}")
        chunks.setdefault(name, {})[position] = text
    found = []
    for name, texts in chunks.items():
        if len(texts) != max(texts) + 1:
            missing = next(position for position in range(len(texts)) if position not in texts)
            raise ValueError(
                f"{places[name].place_of(max(texts))}: document {name!r:.100} has a chunk {max(texts)}, and no chunk "
                f"{missing}: expected all positions from 0"
            )
        found.append(Document(name, [texts[position] for position in range(len(texts))]))
    if not found:
        raise ValueError(f"{folder}: there are no documents")
    return found


@dataclass(frozen=True)
class _Corpus:
    """The documents of BEIR's corpus, read anew each time."""

    folder: Path
    split: str
    chunk_tokens: int
    token_counter: Any

    def __iter__(self) -> Iterator[Document]:
        places = Places(str(self.folder))
        for record in _records(self.folder, "corpus", self.split):
            name = record.id_of(("_id", "id"))
            if name is None:
                raise record.error("has no id: expected _id")
            places.add(name, record.place, f"the document {name!r:.100}")
            title, text = (record.fields.get(field) or "" for field in ("title", "text"))
            if not isinstance(title, str) or not isinstance(text, str):
                raise record.error(f"title and text of {name!r:.100} must be texts, got {title!r:.40} and {text!r:.40}")
            cut = chunk(text, max_tokens=self.chunk_tokens, token_counter=self.token_counter).texts
            yield Document(name, [*([title.strip()] if title.strip() else []), *cut])
