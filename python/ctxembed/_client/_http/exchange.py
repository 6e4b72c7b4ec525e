"""One HTTP exchange: a request out, a response or a connection error back.

All that comes from outside passes here, and the key is removed from it: from responses, from the errors of the
network, which are returned, and from any other exception, whose traceback would show the key in the locals of the
HTTP library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ctxembed._client._http.body import BodyReader, Response
from ctxembed._client._http.errors import hide_key, translate
from ctxembed._errors import DecodeError

if TYPE_CHECKING:
    from ctxembed._client._http.transport import Transport, TransportRequest
    from ctxembed._codec import ResponseDecoder
    from ctxembed._errors import APIConnectionError

__all__ = ["exchange"]

_WITHHELD: Final = frozenset({"set-cookie"})  # a session's secret does not belong into an exception's headers


async def exchange(
    transport: Transport, request: TransportRequest, decoder: ResponseDecoder | None, limit: int, *, keep_body: bool
) -> Response | APIConnectionError:
    """Send a request and read its response.

    Parameters
    ----------
    transport : Transport
        Sends the request.
    request : TransportRequest
        What to send.
    decoder, limit, keep_body
        As for :class:`BodyReader`.

    Raises
    ------
    BaseException
        An exception that does not come from the network, such as a cancellation.
    """
    credentials = request.credentials
    try:
        response = await transport.send(request)
        try:
            coding = response.headers.get("content-encoding", "")
            body = BodyReader(response.status, coding, decoder, limit, keep_body=keep_body)
            while (piece := await response.read()) and body.feed(piece):
                pass
        finally:
            await response.aclose()
    except BaseException as error:
        translated = translate(error, credentials) if isinstance(error, Exception) else None
        if translated is None:
            hide_key(error, credentials)
            raise
        return translated
    headers = credentials.redact_headers(
        {name: value for name, value in response.headers.items() if name not in _WITHHELD}
    )
    pieces, decoded = body.finish()
    if isinstance(decoded, DecodeError):
        hide_key(decoded, credentials)
    fault = None if body.fault is None else credentials.redact_text(body.fault)
    return Response(response.status, headers, fault, decoded, pieces, credentials)
