"""The HTTP contract of a search server: the body of each request, and the checks of its response. No I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import quote

import numpy as np

from ctxembed._client.options import check_bool
from ctxembed._documents import Document, Hit
from ctxembed._errors import SpaceError
from ctxembed._models import as_int
from ctxembed._results import Embeddings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_QUERIES",
    "Call",
    "SearchOptions",
    "collections_call",
    "document_call",
    "error_reason",
    "search_batch_calls",
    "search_call",
]

MAX_QUERIES: Final = 512
"""Queries of one request."""

_MAX_TEXT: Final = 1 << 19
"""Bytes of these. One may take six in JSON, and a server takes bodies of 4 MB."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its response is read.

    Parameters
    ----------
    method, path : str
        Of the request.
    body : bytes
        JSON; empty for a GET.
    read : callable
        Returns the result from the JSON value of a 200. It raises a ``ValueError`` that says what is wrong with it.
    """

    method: str
    path: str
    body: bytes
    read: Callable[[Any], T]


# --- requests ---


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The arguments of a search, as :meth:`Collection.search` has them."""

    k: object
    where: object
    params: object
    hybrid: object
    stage: object
    oversample: object
    dimensions: object
    group_by_document: object
    neighbours: object

    def body(self, collection: str | None, asked: Mapping[str, Any]) -> bytes:
        """Write the body of a search. What is None is left out.

        Raises
        ------
        TypeError, ValueError
            An argument is not what it should be.
        """
        body: dict[str, Any] = {} if collection is None else {"collection": collection}
        body |= asked
        for name, least in (("k", 1), ("neighbours", 0)):
            body[name] = as_int(name, getattr(self, name))
            if body[name] < least:
                raise ValueError(f"{name} must be at least {least}, got {body[name]}")
        if self.where is not None:
            if not isinstance(self.where, str):
                raise TypeError(f"where must be a str or None, got {self.where!r:.100}")
            body |= {"where": self.where, "params": _params(self.params)}
        if not isinstance(self.stage, str):
            raise TypeError(f"stage must be a str, got {self.stage!r:.100}")
        body["stage"] = self.stage
        for name in ("hybrid", "group_by_document"):
            body[name] = check_bool(name, getattr(self, name))
        for name in ("oversample", "dimensions"):
            if (value := getattr(self, name)) is not None:
                body[name] = as_int(name, value)
        if self.hybrid and "vector" in asked:
            raise TypeError("hybrid=True needs a text query, whose words are searched: got a vector")
        try:
            return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            raise ValueError("where or params hold a lone surrogate, which UTF-8 cannot encode") from None
        except ValueError:
            raise ValueError(f"params must be finite numbers, got {self.params!r:.100}") from None


def search_call(
    query: Any, collection: str | None, options: SearchOptions, space: str | None = None
) -> Call[list[Hit]]:
    """Return the call of a search by a text or a vector.

    Parameters
    ----------
    query : str, ndarray or Embeddings
        One query.
    collection : str or None
        Its name; None where the server has one.
    options : SearchOptions
        The other arguments of ``search``.
    space : str or None
        That of an array. Embeddings know it.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be.
    """
    if space is not None and not isinstance(space, str):
        raise TypeError(f"space must be a str or None, got {space!r:.100}")
    if isinstance(query, str):
        if space is not None:
            raise ValueError("space is that of a vector, got a text, which is embedded in the collection's")
        asked: dict[str, Any] = {"query": _checked_text("the query", query)}
    else:
        asked = {"vector": _vector(query)}
        known = query.space if isinstance(query, Embeddings) else None
        if space is not None and known not in (None, space):
            raise SpaceError(f"the vector is of the space {known!r}, and space={space!r}")
        if space is not None or known is not None:
            asked["space"] = known if space is None else space
    return Call("POST", "/v1/search", options.body(collection, asked), _read_hits)


def search_batch_calls(queries: object, collection: str | None, options: SearchOptions) -> list[Call[list[list[Hit]]]]:
    """Return the calls of a search by many texts: one for each 512. Raises as :func:`search_call`."""
    if isinstance(queries, str | bytes | np.ndarray | Embeddings):
        raise TypeError(f"queries must be a list of str, got {type(queries).__name__}: search() takes one query")
    if isinstance(queries, Mapping | AbstractSet) or not isinstance(queries, Iterable):
        raise TypeError(f"queries must be a list of str, got {type(queries).__name__}")
    texts = list(queries)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"queries[{position}] must be a str, got {type(text).__name__}")
        _checked_text(f"queries[{position}]", text)
    options.body(collection, {})  # checks them where there is no query too
    return [
        Call("POST", "/v1/search", options.body(collection, {"queries": part}), _reader_of_lists(len(part)))
        for part in _parts(texts)
    ]


def _parts(texts: list[str]) -> Iterator[list[str]]:
    """Divide texts into those of a request."""
    part: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if part and (len(part) == MAX_QUERIES or size + length > _MAX_TEXT):
            yield part
            part, size = [], 0
        part.append(text)
        size += length
    if part:
        yield part


def document_call(collection: str, id: object) -> Call[Document]:  # noqa: A002
    """Return the call of a document with all its chunks."""
    if not isinstance(id, str):
        raise TypeError(f"an id must be a str, got {id!r:.100}")
    name = quote(_encodable("the id", id), safe="")
    # A path that ends in dots, or in nothing, would be another one.
    path = f"/v1/documents/{quote(collection, safe='')}" + (f"?id={name}" if name in {"", ".", ".."} else f"/{name}")
    return Call("GET", path, b"", _read_document)


def collections_call() -> Call[list[dict[str, Any]]]:
    """Return the call of the list of collections."""
    return Call("GET", "/v1/collections", b"", _read_collections)


def _params(params: object) -> list[Any] | dict[str, Any]:
    if isinstance(params, dict):
        return {_param_name(name): _param(f"params[{name!r}]", value) for name, value in params.items()}
    if isinstance(params, str | bytes) or not isinstance(params, Iterable):
        raise TypeError(f"params must be a tuple, a list or a dict, got {params!r:.100}")
    return [_param(f"params[{position}]", value) for position, value in enumerate(params)]


def _param_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the names of params must be str, got {name!r:.100}")
    return name


def _param(place: str, value: object) -> object:
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"{place} must be a str, a number, a bool or None, got {value!r:.100}")
    return value


def _checked_text(what: str, text: str) -> str:
    if not text:
        raise ValueError(f"{what} is empty")
    return _encodable(what, text)


def _encodable(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds a lone surrogate, which UTF-8 cannot encode: {text!r:.100}") from None
    return text


def _vector(query: Any) -> str:
    """Return the base64 text of one vector."""
    values = query.vectors if isinstance(query, Embeddings) else query
    if not isinstance(values, np.ndarray):
        raise TypeError(f"query must be a str, an ndarray or Embeddings, got {type(query).__name__}")
    if values.dtype not in (np.int8, np.uint8):
        raise TypeError(f"query must be a vector of int8, or of uint8 (packed bits), got {values.dtype}")
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1:
        raise ValueError(f"search() takes one vector of shape (dims,) or (1, dims), got {values.shape}")
    return base64.b64encode(values.tobytes()).decode()


# --- responses ---


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("a number")
    return float(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("an object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list")
    return value


def _pair(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("two whole numbers")
    return _integer(value[0]), _integer(value[1])


def _optional(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else kind(value)


_HIT: Final = {
    "document": _text,
    "chunk": _integer,
    "score": _number,
    "text": _optional(_text),
    "metadata": _object,
    "span": _optional(_pair),
    "vector_score": _optional(_number),
    "text_score": _optional(_number),
    "source": _optional(_text),
    "passage": _optional(_text),
    "passage_chunks": _optional(_pair),
    "passage_span": _optional(_pair),
    "passage_offset": _optional(_integer),
}
_DOCUMENT: Final = {
    "id": _text,
    "source": _optional(_text),
    "metadata": _optional(_object),
    "chunk_count": _integer,
    "chunks": _list,
}
_COLLECTION: Final = {
    "name": _text,
    "dimensions": _integer,
    "encoding_format": _text,
    "space": _optional(_text),
}
_CHUNK: Final = {"chunk": _integer, "text": _optional(_text), "span": _optional(_pair)}


def _fields(value: Any, kinds: Mapping[str, Callable[[Any], Any]], place: str) -> dict[str, Any]:
    """Return the fields of an object that are known here. A newer server may send more."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} is no object")  # noqa: TRY004  # of the response, not of an argument
    found = {}
    for name, kind in kinds.items():
        if name not in value:
            raise ValueError(f"{place} has no {name!r}")
        try:
            found[name] = kind(value[name])
        except TypeError as error:
            raise ValueError(f"{name!r} of {place} is {value[name]!r:.50}, expected {error}") from None
    return found


def _hits_at(value: Any, place: str) -> list[Hit]:
    if not isinstance(value, list):
        raise ValueError(f"{place} is no list")  # noqa: TRY004
    return [Hit(**_fields(each, _HIT, f"{place}[{position}]")) for position, each in enumerate(value)]


def _read_hits(value: Any) -> list[Hit]:
    return _hits_at(_fields(value, {"hits": _list}, "the body")["hits"], "hits")


def _reader_of_lists(count: int) -> Callable[[Any], list[list[Hit]]]:
    def read(value: Any) -> list[list[Hit]]:
        lists = _fields(value, {"hits": _list}, "the body")["hits"]
        if len(lists) != count:
            raise ValueError(f"it has hits of {len(lists)} queries, and {count} were asked")
        return [_hits_at(each, f"hits[{position}]") for position, each in enumerate(lists)]

    return read


def _read_document(value: Any) -> Document:
    found = _fields(value, _DOCUMENT, "the body")
    chunks = [_fields(each, _CHUNK, f"chunks[{position}]") for position, each in enumerate(found["chunks"])]
    if [each["chunk"] for each in chunks] != list(range(found["chunk_count"])):
        raise ValueError(f"it has {len(chunks)} of {found['chunk_count']} chunks, or not in their order")
    texts, spans = ([each[name] for each in chunks] for name in ("text", "span"))
    for name, values in (("text", texts), ("span", spans)):
        if None in values and any(value is not None for value in values):
            raise ValueError(f"some of its chunks have a {name}, and others have none")
    return Document(
        found["id"],
        [] if None in texts else texts,
        found["metadata"] or None,  # a server does not tell an empty object from none
        None if None in spans or not spans else spans,
        found["source"],
    )


def _read_collections(value: Any) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = _fields(value, {"data": _list}, "the body")["data"]
    for position, each in enumerate(data):
        _fields(each, _COLLECTION, f"data[{position}]")
    return data


def error_reason(body: object) -> str | None:
    """Return what a server of ours says in the body of an error; None for any other body.

    Each entry of a 422's ``detail`` has the argument before its message, unless the message names it.
    """
    if not isinstance(body, dict):
        return None
    error, detail = body.get("error"), body.get("detail")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list) and detail and all(isinstance(entry, dict) for entry in detail):
        return "; ".join(_problem(entry) for entry in detail)
    return None


def _problem(entry: Mapping[str, Any]) -> str:
    message = str(entry.get("msg"))
    place: Sequence[object] = entry["loc"][1:] if isinstance(entry.get("loc"), list) else ()
    argument = ".".join(map(str, place))
    return f"{argument}: {message}" if place and str(place[0]) not in message else message
