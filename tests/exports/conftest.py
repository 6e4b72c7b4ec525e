"""The collections that tests of exports share."""

from __future__ import annotations

import pytest

from tests.exports.corpus import Corpus, make_collection


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    found = Corpus(tmp_path_factory.mktemp("corpus") / "corpus.ctx")
    yield found
    found.collection.close()


@pytest.fixture(scope="session")
def binary_collection(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "binary.ctx"
    with make_collection(path, "base64_binary", documents=60) as collection:
        yield collection
