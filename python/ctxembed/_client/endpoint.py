"""The API's two endpoints: the body of a request, and the checks of its response. No I/O."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._codec import ResponseDecoder
from ctxembed._costs import parse_cost
from ctxembed._errors import APIStatusError, BadResponseError, DecodeError, status_error
from ctxembed._models import check_dimensions, check_input_type, get_model
from ctxembed._results import Embeddings, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctxembed._client._http.body import Response
    from ctxembed._client._http.credentials import Credentials
    from ctxembed._models import EncodingFormat, InputType

__all__ = [
    "CONTEXTUALIZED",
    "TEXTS",
    "RequestTemplate",
    "error_body",
    "is_refusal",
    "read_response",
    "read_usage",
    "refused_documents",
]

CONTEXTUALIZED: Final = "/v1/contextualizedembeddings"
TEXTS: Final = "/v1/embeddings"
SPACE_HEADER: Final = "x-ctxembed-space"
_MAX_SPACE: Final = 4096  # bytes, as in an index file

_SHOWN_TEXT: Final = 8 * 1024  # characters of an error's body that an exception keeps
_MAX_DEPTH: Final = 32  # levels of an error's JSON; a body that is nested deeper is kept as text
_SHOWN_START: Final = 500  # characters of an invalid 200 that an exception keeps
_SLACK: Final = 64 * 1024  # bytes that a response may have beside its rows, `usage` and whitespace included
_ROW: Final = 512  # bytes of keys, indexes and whitespace around one vector


class _Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


_USAGE: Final = re.compile(r'"usage"\s*:\s*(?=\{)')
_TOKENS: Final = re.compile(r"[0-9]{1,18}")
_SPELLED: Final = json.JSONDecoder(parse_float=_Number, parse_int=_Number)


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """What all requests of one call have in common.

    Parameters
    ----------
    path : str
        Path of the endpoint.
    model : str
        Name of the model in the request.
    requested_dimensions : int or None
        ``dimensions`` in the request; None leaves it out.
    dimensions : int
        Dimensions that the response must have.
    encoding_format : {"base64_int8", "base64_binary"}
        Encoding of the vectors.
    input_type : {"document", "query"} or None
        ``input_type`` in the request; None leaves it out.
    separator : str or None
        The text that no chunk may hold.
    space : str
        The space of the vectors, unless the server names another.
    """

    path: str
    model: str
    requested_dimensions: int | None
    dimensions: int
    encoding_format: EncodingFormat
    input_type: InputType | None
    separator: str | None
    space: str

    @classmethod
    def create(
        cls,
        path: str,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        input_type: object = None,
        *,
        role: InputType = "document",
    ) -> RequestTemplate:
        """Check the arguments of a call. ``role`` is the input type where none is given and the model has them.

        Raises
        ------
        TypeError, ValueError
            The model is unknown or of the other kind, or it does not offer the dimensions, the format or the role.
        """
        known = get_model(model, contextualized=path == CONTEXTUALIZED)
        expected = check_dimensions(known, dimensions, encoding_format)
        return cls(
            path,
            known.name,
            None if dimensions is None else expected,
            expected,
            encoding_format,
            check_input_type(known, input_type, role),
            known.separator,
            known.space_of(expected),
        )

    @property
    def is_flat(self) -> bool:
        """Whether the input is a list of texts."""
        return self.path == TEXTS

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return self.dimensions if self.encoding_format == "base64_int8" else self.dimensions // 8

    @property
    def dtype(self) -> type[np.int8 | np.uint8]:
        """Dtype of the vectors."""
        return np.int8 if self.encoding_format == "base64_int8" else np.uint8

    @property
    def body_end(self) -> bytes:
        """The part of a request's body after the documents."""
        return _body_end(self)

    def body(self, documents: list[list[str]]) -> bytes:
        """Write the body of a request.

        Raises
        ------
        UnicodeEncodeError
            A chunk holds a lone surrogate, which UTF-8 cannot encode.
        """
        return _core.encode_request(documents, self.body_end, flat=self.is_flat)

    def max_response_size(self, documents: int, chunks: int) -> int:
        """Return the bytes that a response can need, with room for whitespace and unknown keys."""
        return _SLACK + documents * _ROW + chunks * (_ROW + 4 * -(-self.width // 3))

    def decoder(self, shape: Sequence[int]) -> ResponseDecoder:
        """Create the decoder of a response to documents of that many chunks each."""
        return ResponseDecoder(shape=shape, dimensions=self.dimensions, encoding_format=self.encoding_format)


@lru_cache(maxsize=64)
def _body_end(template: RequestTemplate) -> bytes:
    options: dict[str, object] = {"model": template.model, "encoding_format": template.encoding_format}
    if template.requested_dimensions is not None:
        options["dimensions"] = template.requested_dimensions
    if template.input_type is not None:
        options["input_type"] = template.input_type
    return json.dumps(options, separators=(",", ":")).encode()[1:]


def read_response(
    template: RequestTemplate, response: Response, credentials: Credentials
) -> Embeddings | APIStatusError | BadResponseError:
    """Return the embeddings of a valid response, or else its error.

    The error is returned and not raised, so that it has no frames with the request's locals.
    """
    if not 200 <= response.status < 300:
        return status_error(response.status, error_body(response), response.headers)
    result = response.decoded
    cause: DecodeError | None = None
    if response.status != 200:
        message = f"the API responded with {response.status} and no vectors"
    elif response.fault is not None:
        message = f"the API's response cannot be read: {response.fault}"
    elif isinstance(result, DecodeError):
        message, cause = f"the API's response is invalid: {result}", result
    elif not isinstance(result, Embeddings):
        message = "the API's response was not decoded"
    elif result.model is not None and result.model != template.model:
        message = f"the API responded with model {result.model!r} instead of {template.model!r}"
    else:
        return replace(result, space=_space_of(response.headers) or template.space, input_type=template.input_type)
    error = BadResponseError(credentials.redact_text(message), response.text[:_SHOWN_START])
    error.__cause__ = cause
    return error


def _space_of(headers: Mapping[str, str]) -> str | None:
    """Return the space that a server names, such as a stand-in or a local model."""
    space = headers.get(SPACE_HEADER, "").strip()
    return space if space and len(space.encode()) <= _MAX_SPACE else None


def error_body(response: Response) -> object:
    """Return the body of an error as JSON values, or else the start of its text."""
    text = response.text
    with contextlib.suppress(ValueError, RecursionError):
        parsed: object = json.loads(text)
        if _is_shallow(parsed):
            return parsed
    return text[:_SHOWN_TEXT]


def _is_shallow(value: object) -> bool:
    """Return whether a JSON value is nested so little that it can be shown, pickled and compared."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            entry
            for container in level
            if isinstance(container, dict | list)
            for entry in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return True
    return False


def read_usage(text: str) -> Usage:
    """Read the ``usage`` of an invalid response, as far as possible: it was charged all the same.

    Parameters
    ----------
    text : str
        The body, or its start and end.
    """
    for found in reversed([*_USAGE.finditer(text)]):
        try:
            usage, _ = _SPELLED.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            continue
        price = usage.get("cost")
        cost = None
        if isinstance(price, dict) and price.get("currency") in (None, "USD"):
            cost = price.get("total_cost")
        return Usage(
            _tokens(usage.get("prompt_tokens")),
            _tokens(usage.get("total_tokens")),
            parse_cost(cost) if isinstance(cost, _Number) else None,
            1,
        )
    return Usage()


def _tokens(value: object) -> int | None:
    if isinstance(value, _Number) and _TOKENS.fullmatch(value):
        return int(value)
    return None


def is_refusal(error: BaseException) -> bool:
    """Return whether the API refused the content of the request, so that a part of it may pass."""
    return isinstance(error, APIStatusError) and error.status_code in (400, 413, 422)


def refused_documents(error: BaseException, documents: int) -> list[int] | None:
    """Read which documents a refusal names.

    Returns
    -------
    list of int or None
        Positions in the request, ascending; empty where it names none. None where it names something that all
        requests share, such as the model.
    """
    body = error.body if isinstance(error, APIStatusError) else None
    detail = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(detail, list) or not detail:
        return []
    named: set[int] = set()
    shared = True
    for entry in detail:
        where = entry.get("loc") if isinstance(entry, dict) else None
        if not isinstance(where, list) or "input" not in where:
            shared = shared and isinstance(where, list) and len(where) > 1 and isinstance(where[1], str)
            continue
        shared = False
        after = where[where.index("input") + 1 :]
        if after and type(after[0]) is int and 0 <= after[0] < documents:
            named.add(after[0])
    return None if shared else sorted(named)
