"""What the tests of the server share: a bare HTTP client, and vectors decoded without the package's own codec."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest

DOCUMENTS = "/v1/contextualizedembeddings"
TEXTS = "/v1/embeddings"
CONTEXT_MODEL = "pplx-embed-context-v1-0.6b"
TEXT_MODEL = "pplx-embed-v1-0.6b"


class Api:
    """Sends single requests and returns what came back."""

    def __init__(self, base_url: str, key: str = "a-key") -> None:
        self.http = httpx.Client(
            base_url=base_url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )

    def documents(self, documents, *, headers=None, model=CONTEXT_MODEL, **options):
        body = {"input": documents, "model": model, **options}
        return self.http.post(DOCUMENTS, json=body, headers=headers)

    def texts(self, texts, *, headers=None, model=TEXT_MODEL, **options):
        return self.http.post(TEXTS, json={"input": texts, "model": model, **options}, headers=headers)

    def vectors(self, documents, **options):
        """Embed documents; return one matrix, its rows placed by the response's indexes."""
        response = self.documents(documents, **options)
        assert response.status_code == 200, response.text
        return matrix(response.json()["data"], bits=options.get("encoding_format") == "base64_binary")

    def stats(self):
        return self.http.get("/stats").json()


def row(text, *, bits=False):
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8 if bits else np.int8)


def matrix(data, *, bits=False):
    rows = [
        row(item["embedding"], bits=bits)
        for document in sorted(data, key=lambda entry: entry["index"])
        for item in sorted(document["data"], key=lambda entry: entry["index"])
    ]
    return np.stack(rows)


@pytest.fixture
def connect():
    """A factory of API clients for any server; all close with the test."""
    opened = []

    def open_one(server, **options) -> Api:
        opened.append(Api(server.base_url, **options))
        return opened[-1]

    yield open_one
    for api in opened:
        api.http.close()


@pytest.fixture
def api(server, connect):
    """A client of the shared server."""
    return connect(server)
