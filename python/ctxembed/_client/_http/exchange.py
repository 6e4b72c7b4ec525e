"""One HTTP exchange: a request out, a response or a connection error back.

Errors are returned, not raised: a traceback through here would hold frames that know the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ctxembed._client._http.body import BodyReader, Response
from ctxembed._client._http.errors import translate

if TYPE_CHECKING:
    from ctxembed._client._http.transport import Transport, TransportRequest
    from ctxembed._codec import ResponseDecoder
    from ctxembed._errors import APIConnectionError

__all__ = ["exchange"]

_WITHHELD: Final = frozenset({"set-cookie"})  # a session's secret does not belong into an exception's headers


async def exchange(
    transport: Transport, request: TransportRequest, decoder: ResponseDecoder, limit: int, *, keep_body: bool
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
    Exception
        An exception that does not come from the network.
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
    except Exception as error:
        translated = translate(error, credentials)
        if translated is None:
            raise
        return translated
    headers = {
        name: credentials.redact_text(value) for name, value in response.headers.items() if name not in _WITHHELD
    }
    pieces, decoded = body.finish()
    return Response(response.status, headers, pieces, body.fault, decoded)
