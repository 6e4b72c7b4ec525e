"""The API's contract: validates requests, writes response bodies and error bodies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from ctxembed._models import MIN_DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat, InputType, Model
    from ctxembed._planning.limits import Limits
    from ctxembed._results import InvalidDocumentsError

__all__ = [
    "ENCODING_FORMATS",
    "Contract",
    "CountTokens",
    "EmbeddingRequest",
    "InvalidRequestError",
    "NotJsonError",
    "error_body",
    "parse_request",
    "refused",
    "render_response",
    "unauthorized_page",
]

ENCODING_FORMATS: Final = ("base64_int8", "base64_binary")
INPUT_TYPES: Final = ("document", "query")

Problem = dict[str, Any]
_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[list[_Text], Field(min_length=1, fail_fast=True)]

_MAX_PROBLEMS: Final = 100
"""Problems of an input that a response lists."""


class NotJsonError(Exception):
    """The body is not JSON; the response is a 400."""


class InvalidRequestError(Exception):
    """The body is JSON but breaks the contract; the response is a 422.

    Parameters
    ----------
    problems : list of dict
        Each with ``loc``, ``msg`` and ``type``.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


class CountTokens(Protocol):
    """A function that counts tokens."""

    def __call__(self, documents: Sequence[Sequence[str]], /) -> NDArray[np.int64]:
        """Return the tokens of each document, separators included."""


@dataclass(frozen=True, slots=True)
class Contract:
    """The part of the contract that is configured.

    Parameters
    ----------
    models : tuple of Model
        Models that requests may name.
    limits : Limits
        Largest request.
    count_tokens : CountTokens
        Counts the tokens of the input.
    both_endpoints : bool
        Whether every model is offered at both endpoints, as a local one is: a text is a document of one chunk.
    """

    models: tuple[Model, ...]
    limits: Limits
    count_tokens: CountTokens
    both_endpoints: bool = False

    def offered(self, *, nested: bool) -> dict[str, Model]:
        """Return the models of an endpoint by name."""
        return {model.name: model for model in self.models if self.both_endpoints or model.contextualized == nested}


class _Body(BaseModel):
    """Fields of both endpoints. Unknown fields are ignored; ``null`` is not the same as an absent field."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    model: str
    dimensions: int = 0  # used only if the request has the field
    encoding_format: str = ENCODING_FORMATS[0]
    input_type: Any = None  # the model decides whether the request must have it or must not


class _DocumentsBody(_Body):
    input: Annotated[list[_Texts], Field(min_length=1, fail_fast=True)]


class _TextsBody(_Body):
    input: _Text | _Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A valid request.

    Parameters
    ----------
    documents : sequence of sequence of str
        Chunks of each document. A text of the other endpoint is a document of one chunk.
    nested : bool
        Whether the response is nested by document.
    model : Model
        The requested model.
    dimensions : int
        Dimensions of the vectors.
    encoding_format : {"base64_int8", "base64_binary"}
        Format of the vectors.
    tokens : int
        Tokens of all documents, separators included.
    input_type : {"document", "query"} or None
        Role of the documents; None for a model without input types.
    """

    documents: Sequence[Sequence[str]]
    nested: bool
    model: Model
    dimensions: int
    encoding_format: EncodingFormat
    tokens: int
    input_type: InputType | None

    @property
    def chunks(self) -> int:
        """Number of chunks in all documents."""
        return sum(map(len, self.documents))

    def spans(self) -> list[list[str]]:
        """Return the chunks of each document as the model sees them.

        Notes
        -----
        The model joins the chunks of a document with a separator and pools each span between two separators. A chunk
        that contains the separator's text adds a span, and every later chunk gets the vector of its predecessor. A
        query is pooled whole.
        """
        separator = self.model.separator if self.nested and self.input_type != "query" else None
        spans: list[list[str]] = []
        for chunks in self.documents:
            if separator is not None and any(separator in chunk for chunk in chunks):
                spans.append(separator.join(chunks).split(separator)[: len(chunks)])
            else:
                spans.append(list(chunks))
        return spans


def _problem(kind: str, message: str, *place: str | int) -> Problem:
    return {"loc": ["body", *place], "msg": message, "type": kind}


def _choices(choices: Sequence[str | int]) -> str:
    written = [repr(choice) if isinstance(choice, int) else f"'{choice}'" for choice in choices]
    return written[0] if len(written) == 1 else f"{', '.join(written[:-1])} or {written[-1]}"


def _check_options(body: _Body, offered: dict[str, Model]) -> Iterator[Problem]:
    model = offered.get(body.model)
    if model is None:
        yield _problem("literal_error", f"Input should be {_choices(list(offered))}", "model")
    else:
        yield from _check_role(body, model)
    if body.encoding_format not in ENCODING_FORMATS:
        yield _problem("literal_error", f"Input should be {_choices(ENCODING_FORMATS)}", "encoding_format")
    if "dimensions" not in body.model_fields_set:
        return
    largest = max(m.dimensions for m in offered.values()) if model is None else model.dimensions
    of_model = "" if model is None else f" for {model.name}"
    choices = None if model is None else model.dimension_choices
    least = min(MIN_DIMENSIONS, largest) if choices is None else choices[0]  # weights of one's own may have fewer
    if choices is not None and body.dimensions not in choices:
        yield _problem("literal_error", f"Input should be {_choices(choices)}", "dimensions")
    elif body.dimensions < least:
        kind, message = "greater_than_equal", f"Input should be greater than or equal to {least}"
        yield _problem(kind, message, "dimensions")
    elif body.dimensions > largest:
        kind, message = "less_than_equal", f"Input should be less than or equal to {largest}{of_model}"
        yield _problem(kind, message, "dimensions")
    elif body.encoding_format == "base64_binary" and body.dimensions % 8:
        yield _problem("multiple_of", "Input should be a multiple of 8 for base64_binary", "dimensions")


def _check_role(body: _Body, model: Model) -> Iterator[Problem]:
    given = "input_type" in body.model_fields_set
    if model.input_types and not given:
        yield _problem("missing", f"Field required for {model.name}", "input_type")
    elif model.input_types and body.input_type not in INPUT_TYPES:
        yield _problem("literal_error", f"Input should be {_choices(INPUT_TYPES)}", "input_type")
    elif given and not model.input_types:
        message = f"Extra inputs are not permitted: {model.name} has no input types"
        yield _problem("extra_forbidden", message, "input_type")


def _check_input(documents: Sequence[Sequence[str]], contract: Contract, *, nested: bool) -> tuple[list[Problem], int]:
    """Return the problems of the input, and its tokens."""
    limits = contract.limits
    what = "documents" if nested else "texts"
    if len(documents) > limits.documents:
        message = f"List should have at most {limits.documents} {what}, not {len(documents)}"
        return [_problem("too_long", message, "input")], 0
    chunks = sum(map(len, documents))
    if nested and chunks > limits.chunks:
        message = f"Total number of chunks should be at most {limits.chunks}, not {chunks}"
        return [_problem("too_long", message, "input")], 0
    problems: list[Problem] = []
    counts: list[int] = contract.count_tokens(documents).tolist()
    for position, tokens in enumerate(counts):
        if tokens > limits.tokens_per_document:
            message = f"Tokens of one {what[:-1]} should be at most {limits.tokens_per_document}, not {tokens}"
            problems.append(_problem("value_error", message, "input", position))
    total = sum(counts)
    if total > limits.tokens:
        message = f"Tokens of a request should be at most {limits.tokens}, not {total}"
        problems.append(_problem("value_error", message, "input"))
    return problems, total


def parse_request(body: bytes, contract: Contract, *, nested: bool) -> EmbeddingRequest:
    """Parse and validate the body of a request.

    Parameters
    ----------
    body : bytes
        The raw body.
    contract : Contract
        Models, limits and token counter.
    nested : bool
        Whether the input is documents of chunks; else it is texts.

    Raises
    ------
    NotJsonError
        The body is not JSON.
    InvalidRequestError
        The body breaks the contract.
    """
    shape: type[_DocumentsBody | _TextsBody] = _DocumentsBody if nested else _TextsBody
    try:
        given = shape.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise NotJsonError(details[0]["msg"]) from None
        problems = [_problem(d["type"], d["msg"], *d["loc"]) for d in details]
        raise InvalidRequestError(_all_problems(problems, body, contract, nested=nested)) from None
    documents: Sequence[Sequence[str]]
    if isinstance(given, _DocumentsBody):
        documents = given.input
    else:
        documents = [[text] for text in ([given.input] if isinstance(given.input, str) else given.input)]

    offered = contract.offered(nested=nested)
    problems, tokens = _check_input(documents, contract, nested=nested)
    problems = [*_check_options(given, offered), *problems]
    if problems:
        raise InvalidRequestError(problems)
    model = offered[given.model]
    return EmbeddingRequest(
        documents=documents,
        nested=nested,
        model=model,
        dimensions=given.dimensions if "dimensions" in given.model_fields_set else model.dimensions,
        encoding_format=cast("EncodingFormat", given.encoding_format),
        tokens=tokens,
        input_type=given.input_type,
    )


def _all_problems(first: list[Problem], body: bytes, contract: Contract, *, nested: bool) -> list[Problem]:
    """Return the problems of a body of which the first of its input is known, and no more than are of use."""
    others = [problem for problem in first if problem["loc"][1:2] != ["input"]]
    if len(others) == len(first):
        return first
    given = from_json(body).get("input")
    if not isinstance(given, list):
        return first
    limits = contract.limits
    if len(given) > limits.documents:
        what = "documents" if nested else "texts"
        message = f"List should have at most {limits.documents} {what}, not {len(given)}"
        return [*others, _problem("too_long", message, "input")]
    found: list[Problem] = []
    for problem in _input_problems(given, nested=nested):
        if len(found) == _MAX_PROBLEMS:
            message = f"The input has more problems than these {_MAX_PROBLEMS}"
            return [*others, *found, _problem("too_many_errors", message, "input")]
        found.append(problem)
    return [*others, *(found or [problem for problem in first if problem not in others])]


def _input_problems(given: list[Any], *, nested: bool) -> Iterator[Problem]:
    """Find the problems of an input one by one."""
    for position, entry in enumerate(given):
        if nested and isinstance(entry, list) and entry:
            for number, text in enumerate(entry):
                if not (isinstance(text, str) and text):
                    yield from _problems_of(_TEXT, text, position, number)
        elif not (not nested and isinstance(entry, str) and entry):
            yield from _problems_of(_TEXTS if nested else _TEXT, entry, position)


_STRICT: Final = ConfigDict(strict=True, hide_input_in_errors=True)
_TEXT: Final = TypeAdapter[Any](_Text, config=_STRICT)
_TEXTS: Final = TypeAdapter[Any](_Texts, config=_STRICT)


def _problems_of(expected: TypeAdapter[Any], value: object, *place: int) -> Iterator[Problem]:
    try:
        expected.validate_python(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False, include_input=False):
            yield _problem(detail["type"], detail["msg"], "input", *place, *detail["loc"])


def refused(error: InvalidDocumentsError, *, nested: bool) -> list[Problem]:
    """Return the problems of documents that an embedder refuses, such as a chunk that is longer than its context."""
    problems: list[Problem] = []
    for problem in error.problems[:_MAX_PROBLEMS]:
        place = (problem.document,) if problem.chunk is None or not nested else (problem.document, problem.chunk)
        what = "text" if not nested else "document" if problem.chunk is None else "chunk"
        problems.append(_problem("value_error", f"This {what} {problem.reason}", "input", *place))
    return problems


def _decimal(number: Decimal) -> str:
    """Format an exact decimal as a JSON number without an exponent."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def render_response(
    request: EmbeddingRequest,
    rows: Sequence[tuple[int, Sequence[tuple[int, str]]]],
    *,
    model: str | None = None,
    omit: frozenset[str] = frozenset(),
) -> bytes:
    """Return the body of a 200.

    Parameters
    ----------
    request : EmbeddingRequest
        The request.
    rows : sequence of (document, sequence of (chunk, base64))
        The vectors, in the order to send them.
    model : str or None
        Name to report; None for the request's model.
    omit : frozenset of str
        Keys to leave out: ``usage``, ``cost``, ``object``, ``index``, ``model``, ``data``.
    """
    # Joined by hand: json.dumps is ten times slower, and would write the cost as a binary float.
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
    """Return the JSON body of an error response.

    Parameters
    ----------
    status : int
        400 to 599. A 422 has the documented format. That of the others is not published; this is the vendor's usual.
    message : str or None
        Replaces the default message of the status.
    problems : list of dict or None
        ``detail`` of a 422.
    """
    if status == 422:
        content: dict[str, Any] = {"detail": problems or [_problem("value_error", message or "Rejected by a fault")]}
    else:
        kind, default = _MESSAGES.get(
            status, ("api_error", "The service failed" if status >= 500 else "Request rejected")
        )
        content = {"error": {"message": message or default, "type": kind, "code": status}}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def unauthorized_page() -> bytes:
    """Return the HTML page of a 401, which the proxy in front of the API sends."""
    title = "401 Authorization Required"
    head = f"<html>\r\n<head><title>{title}</title></head>\r\n"
    return f"{head}<body>\r\n<center><h1>{title}</h1></center>\r\n<hr>\r\n</body>\r\n</html>\r\n".encode()
