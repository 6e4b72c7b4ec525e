"""A search service whose users' questions share requests to the API.

    python coalescing_service.py corpus.ctx [PORT]

Needs the extras ``server`` and ``aiohttp``. ``GET /search?q=...&k=5`` returns hits as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import ctxembed
import uvicorn
from fastapi import FastAPI, HTTPException


def create_app(path: str) -> FastAPI:
    """Create the app, which searches the collection at a path."""
    collection = ctxembed.Collection.open(path, read_only=True)
    # Questions that come within 20 milliseconds of each other are sent together. One that takes longer than five
    # seconds is given up, whatever the API does.
    client = ctxembed.AsyncClient(coalesce=0.02, deadline=5)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        with collection:
            async with client:
                yield

    async def search(q: str, k: int = 5) -> list[dict[str, str | float]]:
        try:
            hits = await collection.asearch(q, k, client=client)
        except ctxembed.APIError as error:
            raise HTTPException(503, f"questions cannot be embedded now ({error.code})") from error
        return [{"document": hit.document, "text": hit.text or "", "score": hit.score} for hit in hits]

    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/search", search)
    return app


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    uvicorn.run(create_app(sys.argv[1]), port=port, log_level="warning")
