"""An answer as it came: ``with_raw_response``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctxembed._client.planned import one
from ctxembed._models import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ctxembed._client.asynchronous import AsyncClient
    from ctxembed._client.batches import Outcome
    from ctxembed._client.sync import Client
    from ctxembed._models import EncodingFormat
    from ctxembed._results import Embeddings

__all__ = ["AsyncRawCalls", "RawCalls", "RawResponse", "raw_of"]


@dataclass(frozen=True, slots=True)
class RawResponse:
    """An answer that proved itself: its headers and body beside its vectors.

    Parameters
    ----------
    status_code : int
        200: anything else is raised.
    headers : mapping of str to str
        Names in lower case; cookies are left out, and the key is replaced should it appear.
    content : bytes
        The body, decompressed.
    attempts : int
        Requests that were sent, this one included.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    attempts: int
    _embeddings: Embeddings = field(repr=False)

    @property
    def request_id(self) -> str | None:
        """The answer's ``x-request-id``, or None."""
        return self.headers.get("x-request-id")

    @property
    def retries_taken(self) -> int:
        """Requests that were sent before this one."""
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


def raw_of(outcome: Outcome) -> RawResponse:
    """Make the response of a request that landed, or raise its error as it is."""
    embeddings = one(outcome)
    if outcome.reply is None:
        raise RuntimeError("the answer was not kept")  # cannot be: it was asked for
    reply = outcome.reply
    return RawResponse(reply.status, reply.headers, reply.body, outcome.attempts, embeddings)


class RawCalls:
    """:attr:`Client.with_raw_response`: calls of one request that return a :class:`RawResponse`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> RawResponse:
        """Send exactly one request: see :meth:`Client.create`."""
        return raw_of(self._client._create(input, model, dimensions, encoding_format, deadline, keep=True))  # noqa: SLF001


class AsyncRawCalls:
    """:attr:`AsyncClient.with_raw_response`: calls of one request that return a :class:`RawResponse`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> RawResponse:
        """Send exactly one request: see :meth:`Client.create`."""
        return raw_of(await self._client._create(input, model, dimensions, encoding_format, deadline, keep=True))  # noqa: SLF001
