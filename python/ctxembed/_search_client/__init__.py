"""The client of a search server: ``ctxembed serve --collection``.

| modules | what they do |
|---|---|
| ``sync``, ``asynchronous`` | the public classes, which differ in ``await`` alone |
| ``base`` | their options, and a call with its retries |
| ``contract`` | the body of each request, and what its response must prove; no I/O |

Transports, credentials and the arithmetic of retries are those of ``_client``.
"""

from __future__ import annotations

from ctxembed._search_client.asynchronous import AsyncSearchClient
from ctxembed._search_client.sync import SearchClient

__all__ = ["AsyncSearchClient", "SearchClient"]
