"""``with_raw_response``: the headers and the body of a response beside its vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctxembed._client.batches import single_result
from ctxembed._models import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ctxembed._client.batches import Outcome
    from ctxembed._models import EncodingFormat, InputType
    from ctxembed._results import Embeddings

__all__ = ["AsyncRawCalls", "RawCalls", "RawResponse"]


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A valid response: its headers and body, and its vectors.

    The key is redacted where the server has echoed it.

    Parameters
    ----------
    status_code : int
        200; any other status is raised.
    headers : mapping of str to str
        Names in lower case, without cookies.
    content : bytes
        The body, decompressed.
    attempts : int
        Attempts that were sent, including the one that succeeded.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    attempts: int
    _embeddings: Embeddings = field(repr=False)

    @property
    def request_id(self) -> str | None:
        """The ``x-request-id`` of the response, or None."""
        return self.headers.get("x-request-id")

    @property
    def retries_taken(self) -> int:
        """Attempts before the one that succeeded."""
        return self.attempts - 1

    def parse(self) -> Embeddings:
        """Return the vectors."""
        return self._embeddings

    def read(self) -> bytes:
        """Return the body."""
        return self.content

    def text(self) -> str:
        """Return the body as text."""
        return self.content.decode()

    def json(self) -> Any:
        """Return the body as JSON values."""
        return json.loads(self.content)


def _raw_response(outcome: Outcome) -> RawResponse:
    """Create the response of a request that succeeded, or raise its error."""
    embeddings = single_result(outcome)
    response = outcome.response
    if response is None:
        raise RuntimeError("the body of the response was not kept")  # a bug: it was asked for
    return RawResponse(response.status, response.headers, response.content, outcome.attempts, embeddings)


class RawCalls:
    """The calls of :attr:`Client.with_raw_response`. They return a :class:`RawResponse`."""

    def __init__(self, send: Callable[..., Outcome]) -> None:
        self._send = send

    def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType | None = None,
        deadline: float | None = None,
    ) -> RawResponse:
        """Send exactly one request. Arguments and errors are those of :meth:`Client.create`."""
        return _raw_response(
            self._send(input, model, dimensions, encoding_format, deadline, input_type=input_type, keep_body=True)
        )


class AsyncRawCalls:
    """The calls of :attr:`AsyncClient.with_raw_response`. They return a :class:`RawResponse`."""

    def __init__(self, send: Callable[..., Awaitable[Outcome]]) -> None:
        self._send = send

    async def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType | None = None,
        deadline: float | None = None,
    ) -> RawResponse:
        """Send exactly one request. Arguments and errors are those of :meth:`AsyncClient.create`."""
        return _raw_response(
            await self._send(input, model, dimensions, encoding_format, deadline, input_type=input_type, keep_body=True)
        )
