"""A collection whose words are searched, and the oracle: shared by the tests of the index of words."""

from __future__ import annotations

from ctxembed import Collection

from tests.collection.samples import DIMENSIONS, LocalEmbedder
from tests.collection.test_hybrid import Oracle, check, random_documents

DOCUMENTS = random_documents(80)
QUERY = "w3 w40 w9"


def create(path, documents=DOCUMENTS):
    collection = Collection.create(path, dimensions=DIMENSIONS)
    collection.ingest(documents, LocalEmbedder())
    return collection


def found(collection, query=QUERY, k=20):
    hits = collection.search(query, k, client=LocalEmbedder(), hybrid=True)
    return [(hit.document, hit.chunk, hit.score, hit.vector_score, hit.text_score) for hit in hits]


def right(collection, documents=DOCUMENTS, query=QUERY):
    """Check a search against the oracle."""
    check(collection.search(query, 20, client=LocalEmbedder(), hybrid=True), Oracle(documents).ranking(query, 20))


def states(path):
    return sorted(entry.name for entry in (path / "words").iterdir() if entry.name != "lock")
