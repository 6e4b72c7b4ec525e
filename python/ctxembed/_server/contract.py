"""The API's contract as code: what a request may be, what its answer looks like, what each refusal says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctxembed._models import MIN_DIMENSIONS, SEPARATOR
from ctxembed._server.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from ctxembed._models import Model
    from ctxembed._server.config import ServerConfig

__all__ = [
    "ENCODING_FORMATS",
    "EmbeddingRequest",
    "NotJsonError",
    "RefusedError",
    "error_body",
    "parse_request",
    "render_response",
    "unauthorized_page",
]

ENCODING_FORMATS: Final = ("base64_int8", "base64_binary")

Problem = dict[str, Any]
_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[list[_Text], Field(min_length=1)]


class NotJsonError(Exception):
    """The body is not JSON: 400."""


class RefusedError(Exception):
    """The body is JSON and breaks the contract: 422.

    Parameters
    ----------
    problems : list of dict
        Each with ``loc``, ``msg`` and ``type``.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


class _Body(BaseModel):
    """What both endpoints share. Unknown fields are ignored; ``null`` is not an absent field."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    model: str
    dimensions: int = 0  # never looked at unless it was given
    encoding_format: str = ENCODING_FORMATS[0]


class _DocumentsBody(_Body):
    input: Annotated[list[_Texts], Field(min_length=1)]


class _TextsBody(_Body):
    input: _Text | _Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A request that keeps the contract.

    Parameters
    ----------
    documents : sequence of sequence of str
        The chunks; a text of the sibling endpoint is a document of one chunk.
    nested : bool
        Whether the answer is nested by document.
    model : Model
        What embeds.
    dimensions : int
        Of the answer.
    binary : bool
        Whether the answer holds bits.
    tokens : int
        Of all chunks, separators included.
    """

    documents: Sequence[Sequence[str]]
    nested: bool
    model: Model
    dimensions: int
    binary: bool
    tokens: int

    @property
    def chunks(self) -> int:
        """Chunks of all documents."""
        return sum(map(len, self.documents))

    def spans(self) -> list[list[str]]:
        """Return what the model sees as the chunks of each document.

        Notes
        -----
        The model joins a document's chunks with a separator and pools span by span. A chunk that holds the
        separator's text makes one span too many, and every later chunk gets its predecessor's vector.
        """
        spans: list[list[str]] = []
        for chunks in self.documents:
            if self.nested and any(SEPARATOR in chunk for chunk in chunks):
                spans.append(SEPARATOR.join(chunks).split(SEPARATOR)[: len(chunks)])
            else:
                spans.append(list(chunks))
        return spans


def _problem(kind: str, message: str, *place: str | int) -> Problem:
    return {"loc": ["body", *place], "msg": message, "type": kind}


def _names(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _check_options(body: _Body, fitting: dict[str, Model]) -> Iterator[Problem]:
    model = fitting.get(body.model)
    if model is None:
        yield _problem("literal_error", f"Input should be {_names(list(fitting))}", "model")
    if body.encoding_format not in ENCODING_FORMATS:
        yield _problem("literal_error", f"Input should be {_names(ENCODING_FORMATS)}", "encoding_format")
    if "dimensions" not in body.model_fields_set:
        return
    largest = max(m.dimensions for m in fitting.values()) if model is None else model.dimensions
    of_model = "" if model is None else f" for {model.name}"
    if body.dimensions < MIN_DIMENSIONS:
        kind, message = "greater_than_equal", f"Input should be greater than or equal to {MIN_DIMENSIONS}"
        yield _problem(kind, message, "dimensions")
    elif body.dimensions > largest:
        kind, message = "less_than_equal", f"Input should be less than or equal to {largest}{of_model}"
        yield _problem(kind, message, "dimensions")
    elif body.encoding_format == "base64_binary" and body.dimensions % 8:
        yield _problem("multiple_of", "Input should be a multiple of 8 for base64_binary", "dimensions")


def _check_input(documents: Sequence[Sequence[str]], config: ServerConfig, *, nested: bool) -> Iterator[Problem | int]:
    """Yield what is wrong with the input; if nothing is, its tokens."""
    limits = config.limits
    what = "documents" if nested else "texts"
    if len(documents) > limits.documents:
        message = f"List should have at most {limits.documents} {what}, not {len(documents)}"
        yield _problem("too_long", message, "input")
        return
    chunks = sum(map(len, documents))
    if nested and chunks > limits.chunks:
        message = f"Total number of chunks should be at most {limits.chunks}, not {chunks}"
        yield _problem("too_long", message, "input")
        return
    count = config.token_counter or count_tokens
    total, sound = 0, True
    for position, texts in enumerate(documents):
        tokens = sum(map(count, texts)) + len(texts) - 1
        total += tokens
        if tokens > limits.tokens_per_document:
            sound = False
            message = f"Tokens of one {what[:-1]} should be at most {limits.tokens_per_document}, not {tokens}"
            yield _problem("value_error", message, "input", position)
    if total > limits.tokens:
        sound = False
        message = f"Tokens of a request should be at most {limits.tokens}, not {total}"
        yield _problem("value_error", message, "input")
    if sound:
        yield total


def parse_request(body: bytes, config: ServerConfig, *, nested: bool) -> EmbeddingRequest:
    """Read a request's body.

    Parameters
    ----------
    body : bytes
        As it came.
    config : ServerConfig
        Models, limits and token counter.
    nested : bool
        Documents of chunks rather than texts.

    Raises
    ------
    NotJsonError
        The body is not JSON.
    RefusedError
        The body breaks the contract.
    """
    shape: type[_DocumentsBody | _TextsBody] = _DocumentsBody if nested else _TextsBody
    try:
        given = shape.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise NotJsonError(details[0]["msg"]) from None
        raise RefusedError([_problem(d["type"], d["msg"], *d["loc"]) for d in details]) from None
    documents: Sequence[Sequence[str]]
    if isinstance(given, _DocumentsBody):
        documents = given.input
    else:
        documents = [[text] for text in ([given.input] if isinstance(given.input, str) else given.input)]

    fitting = {model.name: model for model in config.models if model.contextualized == nested}
    found = [*_check_options(given, fitting), *_check_input(documents, config, nested=nested)]
    problems = [entry for entry in found if not isinstance(entry, int)]
    if problems:
        raise RefusedError(problems)
    model = fitting[given.model]
    return EmbeddingRequest(
        documents=documents,
        nested=nested,
        model=model,
        dimensions=given.dimensions if "dimensions" in given.model_fields_set else model.dimensions,
        binary=given.encoding_format == "base64_binary",
        tokens=sum(entry for entry in found if isinstance(entry, int)),
    )


def _decimal(number: Decimal) -> str:
    """Write an exact decimal as a JSON number without an exponent."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def render_response(
    request: EmbeddingRequest,
    rows: Sequence[tuple[int, Sequence[tuple[int, str]]]],
    *,
    model: str | None = None,
    omit: frozenset[str] = frozenset(),
) -> bytes:
    """Write the body of a 200.

    Parameters
    ----------
    request : EmbeddingRequest
        What was asked for.
    rows : sequence of (document, sequence of (chunk, base64))
        What to send, in this order.
    model : str or None
        The name to echo; None for the request's.
    omit : frozenset of str
        Keys to leave out: ``usage``, ``cost``, ``object``, ``index``, ``model``, ``data``.
    """
    # Joined by hand: json.dumps writes the cost in binary floating point, and takes ten times as long.
    object_list = "" if "object" in omit else '"object":"list",'
    object_item = "" if "object" in omit else '"object":"embedding",'
    index = "index" not in omit
    written: list[str] = []
    for document, chunks in rows:
        label = document if not request.nested else None
        items = ",".join(
            f'{{{object_item}"index":{chunk if label is None else label},"embedding":"{text}"}}'
            if index
            else f'{{{object_item}"embedding":"{text}"}}'
            for chunk, text in chunks
        )
        if request.nested:
            place = f'"index":{document},' if index else ""
            written.append(f'{{{object_list}{place}"data":[{items}]}}')
        elif items:
            written.append(items)
    parts: list[str] = [] if "object" in omit else ['"object":"list"']
    if "data" not in omit:
        parts.append(f'"data":[{",".join(written)}]')
    if "model" not in omit:
        parts.append(f'"model":{json.dumps(request.model.name if model is None else model)}')
    if "usage" not in omit:
        price = request.model.cost(request.tokens)
        cost = ""
        if price is not None and "cost" not in omit:
            usd = _decimal(price)
            cost = f',"cost":{{"input_cost":{usd},"total_cost":{usd},"currency":"USD"}}'
        parts.append(f'"usage":{{"prompt_tokens":{request.tokens},"total_tokens":{request.tokens}{cost}}}')
    return ("{" + ",".join(parts) + "}").encode()


_MESSAGES: Final = {
    400: ("bad_request", "The request body is not valid JSON"),
    403: ("permission_denied", "This key may not use this endpoint"),
    404: ("not_found", "No such resource"),
    408: ("request_timeout", "The request took too long to arrive"),
    413: ("request_too_large", "The request body is too large"),
    429: ("rate_limit_exceeded", "Too many requests"),
    503: ("overloaded", "The service is overloaded"),
}


def error_body(status: int, message: str | None = None, problems: list[Problem] | None = None) -> bytes:
    """Write the JSON body of a refusal or a failure.

    Parameters
    ----------
    status : int
        400 to 599. 422 has the documented shape; the others' is not published, and this is the vendor's usual one.
    message : str or None
        What happened, instead of the status's usual message.
    problems : list of dict or None
        The details of a 422.
    """
    if status == 422:
        content: dict[str, Any] = {"detail": problems or [_problem("value_error", message or "Refused by a fault")]}
    else:
        kind, usual = _MESSAGES.get(status, ("api_error", "The service failed" if status >= 500 else "Refused"))
        content = {"error": {"message": message or usual, "type": kind, "code": status}}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def unauthorized_page() -> bytes:
    """Write the HTML page of a 401: the proxy in front of the API answers, not the API."""
    title = "401 Authorization Required"
    head = f"<html>\r\n<head><title>{title}</title></head>\r\n"
    return f"{head}<body>\r\n<center><h1>{title}</h1></center>\r\n<hr>\r\n</body>\r\n</html>\r\n".encode()
