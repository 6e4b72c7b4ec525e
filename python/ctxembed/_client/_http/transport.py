"""The transport protocol: send a request, read the body of its response as it arrives, close."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._http.credentials import Credentials

__all__ = ["Timeouts", "Transport", "TransportRequest", "TransportResponse"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Maximum seconds of an attempt; None for no limit.

    Parameters
    ----------
    connect, read, write, pool : float or None
        To connect, between two reads, between two writes, and to wait for a free connection.
    total : float or None
        For the whole attempt. The client enforces it; a transport need not.
    """

    connect: float | None = 10.0
    read: float | None = 120.0
    write: float | None = 120.0
    pool: float | None = 120.0
    total: float | None = 600.0


@dataclass(frozen=True, slots=True)
class TransportRequest:
    """An HTTP request.

    Parameters
    ----------
    url : str
        Absolute URL.
    headers : mapping of str to str
        Names in lower case, without the credentials.
    body : bytes
        The body; empty for a GET.
    credentials : Credentials
        ``credentials.authorization()`` is the value of the ``Authorization`` header; empty: none is sent.
    timeouts : Timeouts
        Time limits of the attempt.
    method : {"POST", "GET"}
        The method. Only a :class:`SearchClient` sends others than POST.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    credentials: Credentials
    timeouts: Timeouts
    method: str = "POST"


class TransportResponse(Protocol):
    """The head of a response, with its body still to be read."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers: names in lower case, values of repeated headers joined by a comma."""

    async def read(self) -> bytes:
        """Return the next piece of the body, still compressed as ``content-encoding`` says; empty at its end."""

    async def aclose(self) -> None:
        """Release the connection. A connection whose body was not read to its end is closed."""


@runtime_checkable
class Transport(Protocol):
    """Sends requests. Give an object of your own as ``transport=`` of a client.

    Notes
    -----
    One transport serves any number of requests at once, in one event loop. It must not follow redirects, retry, or keep
    cookies, and must not reuse a connection on which bytes are left over after a response. It raises
    :class:`APIConnectionError`, :class:`APITimeoutError`, ``OSError`` or an exception of httpx; any other exception
    ends the call unchanged.
    """

    async def send(self, request: TransportRequest) -> TransportResponse:
        """Send a request and return the head of its response."""

    async def aclose(self) -> None:
        """Close all connections."""
