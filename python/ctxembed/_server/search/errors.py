"""The response to each error of a search."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ctxembed._errors import APIStatusError, CollectionError, CtxembedError
from ctxembed._server.contract import InvalidRequestError, NotJsonError, error_body
from ctxembed._server.pass_queue import QueueClosedError, QueueFullError
from ctxembed._server.rate_limiter import retry_after_seconds
from ctxembed._server.requests import ErrorResponse, unavailable
from ctxembed._server.search.query_vectors import NoEmbedderError, RefusedQueryError
from ctxembed._server.search.scans import ScanQueueClosedError, ScanQueueFullError
from ctxembed._server.search.search_request import problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxembed._server.search.served_collection import ServedCollection

__all__ = ["response_to"]

logger = logging.getLogger("ctxembed.server")

_LATER = {"retry-after": "1"}


def response_to(error: Exception, collections: Iterable[ServedCollection]) -> ErrorResponse:
    """Return the response to an error, or raise it again where it is none of a request.

    Parameters
    ----------
    error : Exception
        The error.
    collections : iterable of ServedCollection
        Their names replace their paths in messages: a path of this machine is nobody's business.
    """
    match error:
        case ErrorResponse():
            return error
        case NotJsonError():
            return ErrorResponse.of(400, str(error))
        case InvalidRequestError():
            return ErrorResponse(422, error_body(422, problems=error.problems))
        case RefusedQueryError():
            place = ("query",) if error.place is None else ("queries", error.place)
            return ErrorResponse(422, error_body(422, problems=[problem(str(error), "body", *place)]))
        case ModuleNotFoundError():
            return ErrorResponse.of(501, str(error))
        case CollectionError():
            logger.error("%s", error)
            message = str(error)
            for served in collections:
                message = message.replace(served.path, served.name)
            return ErrorResponse.of(500, message)
    return _of_embedding(error)


def _of_embedding(error: Exception) -> ErrorResponse:
    """Return the response where a query was not embedded, or not scanned."""
    match error:
        case NoEmbedderError():
            return ErrorResponse.of(503, f"Text queries cannot be embedded: {error}")
        case QueueFullError():
            wait = {"retry-after": retry_after_seconds(error.wait)}
            return ErrorResponse.of(503, "The queue of the embedder is full", wait)
        case ScanQueueFullError():
            return ErrorResponse.of(503, "Too many searches wait", _LATER)
        case QueueClosedError() | ScanQueueClosedError():
            return unavailable("The server is stopping")
        case APIStatusError(status_code=429):
            return ErrorResponse.of(503, "The API that embeds queries is busy", _LATER)
        case CtxembedError():
            logger.warning("a query could not be embedded: %s", error)
            return ErrorResponse.of(502, f"The query could not be embedded: {error}")
    raise error
