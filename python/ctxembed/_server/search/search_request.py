"""The body of a search, and what it asks for."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctxembed._server.contract import InvalidRequestError, NotJsonError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._collection.state import Generation

__all__ = ["MAX_K", "SearchRequest", "check_space", "parse_search", "problem", "vector_of"]

MAX_K: Final = 10_000
_MAX_NEIGHBOURS: Final = 100
_MAX_QUERIES: Final = 512
_MAX_PARAMETERS: Final = 1_000

_Scalar = str | bool | int | float | None
_Text = Annotated[str, Field(min_length=1)]


class SearchRequest(BaseModel):
    """What to search for: exactly one of ``query``, ``queries`` and ``vector``."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {"query": "which bird catches fish?", "k": 5},
                {"query": "herons", "where": "year >= ? AND lang = ?", "params": [2020, "en"], "neighbours": 1},
                {"queries": ["herons", "kingfishers"], "hybrid": True, "group_by_document": True},
            ]
        },
    )

    collection: Annotated[
        str | None, Field(description="Name of the collection; may be left out when one is served.")
    ] = None
    query: Annotated[_Text | None, Field(description="A text.")] = None
    queries: Annotated[
        list[_Text] | None,
        Field(min_length=1, max_length=_MAX_QUERIES, description="Several texts: the hits are a list for each."),
    ] = None
    vector: Annotated[
        str | list[int] | None,
        Field(
            description="A vector: int8 values as base64 or as numbers. In a binary collection packed bits, too, in "
            "the API's order (the lowest bit of a byte first)."
        ),
    ] = None
    space: Annotated[
        str | None,
        Field(
            description="Space of the vector, which has to be the collection's. A vector needs it once the collection "
            "has moved to another model since the server opened it."
        ),
    ] = None
    k: Annotated[int, Field(ge=1, le=MAX_K, description="Hits of a query.")] = 10
    where: Annotated[
        str | None, Field(description="An SQL expression over id, source and metadata: only such documents are found.")
    ] = None
    params: Annotated[
        list[_Scalar] | dict[str, _Scalar],
        Field(default_factory=list, max_length=_MAX_PARAMETERS, description="Values for the ? or :name in where."),
    ]
    hybrid: Annotated[bool, Field(description="Search the words too, and fuse both rankings.")] = False
    stage: Annotated[Literal["exact", "two-stage"], Field(description="two-stage: bits first, then int8.")] = "exact"
    oversample: Annotated[
        int | None, Field(ge=1, description="Rows that the first of two stages keeps, as a multiple of k.")
    ] = None
    dimensions: Annotated[int | None, Field(ge=1, description="Compare only so many leading dimensions.")] = None
    group_by_document: Annotated[bool, Field(description="Rank documents by their best chunk.")] = False
    neighbours: Annotated[
        int, Field(ge=0, le=_MAX_NEIGHBOURS, description="Chunks of the passage on each side of a hit.")
    ] = 0

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        return [self.query] if self.query is not None else self.queries or []


def problem(message: str, *place: str | int, kind: str = "value_error") -> dict[str, Any]:
    """Return an entry of a 422's ``detail``."""
    return {"loc": list(place), "msg": message, "type": kind}


def parse_search(body: bytes) -> SearchRequest:
    """Parse and validate a body.

    Raises
    ------
    NotJsonError
        The body is not JSON.
    InvalidRequestError
        It is no search.
    """
    try:
        found = SearchRequest.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise NotJsonError(details[0]["msg"]) from None
        raise InvalidRequestError([problem(d["msg"], "body", *d["loc"], kind=d["type"]) for d in details]) from None
    given = [name for name in ("query", "queries", "vector") if getattr(found, name) is not None]
    if len(given) != 1:
        message = f"expected exactly one of query, queries and vector, got {' and '.join(given) or 'none of them'}"
        raise InvalidRequestError([problem(message, "body")])
    if found.space is not None and found.vector is None:
        raise InvalidRequestError([problem("space is that of a vector, got a text", "body", "space")])
    if found.hybrid and found.vector is not None:
        raise InvalidRequestError(
            [problem("hybrid needs a text query, whose words are searched, got a vector", "body", "hybrid")]
        )
    return found


def vector_of(given: str | list[int], generation: Generation) -> NDArray[Any]:
    """Return the vector of a request: int8 of shape (1, dimensions), or packed bits as uint8.

    Raises
    ------
    InvalidRequestError
        It is no vector of the collection.
    """
    dimensions = generation.dimensions
    is_binary = generation.encoding_format == "base64_binary"
    expected = f"expected {dimensions} int8 values"
    if is_binary:
        expected += f", or {dimensions // 8} bytes of packed bits"
    if isinstance(given, str):
        try:
            values = np.frombuffer(b64decode(given, validate=True), np.uint8)
        except (binascii.Error, ValueError) as error:
            raise _refused(f"no base64 ({error}): {expected}") from None
        if len(values) == dimensions:
            return values.view(np.int8).reshape(1, -1)
        if is_binary and len(values) == dimensions // 8:
            return values.reshape(1, -1)
        raise _refused(f"{len(values)} bytes: {expected}")
    is_packed = is_binary and len(given) == dimensions // 8
    if len(given) != dimensions and not is_packed:
        raise _refused(f"{len(given)} numbers: {expected}")
    least, most = (0, 255) if is_packed else (-128, 127)
    for place, number in enumerate(given):
        if not least <= number <= most:
            raise _refused(f"the number {number} is not between {least} and {most}", place)
    return np.array([given], np.uint8 if is_packed else np.int8)


def check_space(space: str | None, generation: Generation, *, has_moved: bool) -> None:
    """Refuse a vector that is of another space than a collection, or may be.

    Raises
    ------
    InvalidRequestError
        It is.
    """
    own = generation.space
    if space is not None and space != own:
        message = f"the vector is of the space {space!r:.100}, and the collection of {own!r}: they cannot be compared"
        raise InvalidRequestError([problem(message, "body", "space")])
    if space is None and has_moved:
        message = (
            f"the collection was migrated since this server opened it, and is of the space {own!r} now: say with "
            "the vector that it is of that space"
        )
        raise InvalidRequestError([problem(message, "body", "space", kind="missing")])


def _refused(message: str, *place: int) -> InvalidRequestError:
    return InvalidRequestError([problem(message, "body", "vector", *place)])
