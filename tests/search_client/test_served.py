"""What the clients return is what the collections return: against a server's process."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest
from ctxembed import (
    AuthenticationError,
    Client,
    Collection,
    CollectionError,
    Document,
    NotFoundError,
    SearchClient,
    SpaceError,
    UnprocessableEntityError,
)
from ctxembed._server import ServerConfig, ServerProcess

from tests.search_client.conftest import KEY

WORDS = (
    "heron", "fish", "reed", "bread", "flour", "water", "salt", "time", "owner", "memory", "garbage", "collector",
    "silver", "river", "bird", "wing",
)  # fmt: skip


def documents():
    rng = np.random.default_rng(3)
    for n in range(40):
        chunks = [" ".join(rng.choice(WORDS, 9)) + "." for _ in range(1 + n % 5)]
        ends = np.cumsum([len(chunk) + 1 for chunk in chunks]).tolist()
        spans = [(end - len(chunk) - 1, end - 1) for chunk, end in zip(chunks, ends, strict=True)]
        metadata = (
            {"n": n, "lang": ["en", "de"][n % 2], "tags": [n], "text": "<b>\u2028\U0001f600</b>"} if n % 3 else None
        )
        yield Document(f"doc-{n}", chunks, metadata, spans if n % 4 else None, None if n % 2 else f"/files/{n}.md")
    for name in ("a/b?c#d%2F ü", "..", ".", "a/../b", "\u65e5\u672c&x=y"):
        yield Document(name, [f"the id {name}", "a second chunk"])


@pytest.fixture(scope="module")
def folders(_session_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    kinds = {
        "texts": {},
        "bits": {"encoding_format": "base64_binary", "store_text": False, "dimensions": 512},
        "empty": {},
    }
    with Client("k", base_url=_session_server.base_url) as client:
        for name, options in kinds.items():
            with Collection.create(folder / f"{name}.ctx", **options) as col:
                if name != "empty":
                    assert col.ingest(documents(), client).failed == 0
    return folder


@pytest.fixture(scope="module")
def url(folders):
    """The URL of a server of all three, which wants a key and embeds with the stand-in."""
    paths = tuple(folders / f"{name}.ctx" for name in ("texts", "bits", "empty"))
    with ServerProcess(config=ServerConfig(collections=paths, key=KEY)) as process:
        yield process.base_url


@pytest.fixture
def api(server):
    with Client("k", base_url=server.base_url) as client:
        yield client


@pytest.fixture(params=["texts", "bits"])
def col(request, folders):
    with Collection.open(folders / f"{request.param}.ctx", read_only=True) as opened:
        yield opened


def name_of(col) -> str:
    return col.path.rpartition("/")[2].removesuffix(".ctx")


VARIANTS = {
    "plain": {},
    "where": {"where": "n >= ? AND lang = ?", "params": (10, "en")},
    "named": {"where": "n IN (:a, :b) OR id = '..'", "params": {"a": 1, "b": 2.0}},
    "nothing": {"where": "n > 1000"},
    "two-stage": {"stage": "two-stage", "oversample": 3},
    "prefix": {"dimensions": 256},
    "by document": {"group_by_document": True},
    "neighbours": {"neighbours": 2},
    "both": {"group_by_document": True, "neighbours": 1, "where": "lang = 'en'"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_hits_are_those_of_the_collection(driver, url, col, api, variant):
    options = VARIANTS[variant]
    for k in (1, 7, 500):
        expected = col.search("which bird catches silver fish?", k, client=api, **options)
        found = driver.search(url, "which bird catches silver fish?", k, collection=name_of(col), **options)
        assert found == expected
        for hit, same in zip(found, expected, strict=True):
            assert [type(getattr(hit, name)) for name in hit.__slots__] == [
                type(getattr(same, name)) for name in hit.__slots__
            ]


@pytest.mark.parametrize("options", [{}, {"group_by_document": True}, {"where": "n > 3", "neighbours": 1}])
def test_hybrid_hits_are_those_of_the_collection(driver, url, folders, api, options):
    with Collection.open(folders / "texts.ctx", read_only=True) as col:
        expected = col.search("garbage collector", 5, client=api, hybrid=True, **options)
    assert driver.search(url, "garbage collector", 5, collection="texts", hybrid=True, **options) == expected


def test_vectors_find_what_they_find_in_the_collection(driver, url, col, api):
    query = api.embed_queries(["silver fish"], dimensions=col.dimensions)
    packed = ctxembed.pack_bits(query.vectors)
    given = [query, query.vectors, query.vectors[0]]
    if col.encoding_format == "base64_binary":
        given += [
            packed,
            packed[0],
            api.embed_queries(["silver fish"], dimensions=512, encoding_format="base64_binary"),
        ]
    for vector in given:
        assert driver.search(url, vector, 4, collection=name_of(col)) == col.search(vector, 4)
    for search in (col.search, lambda vector: driver.search(url, vector, collection=name_of(col))):
        with pytest.raises((TypeError, ValueError), match="queries must have"):
            search(query.vectors[0].view(np.uint8))


def test_a_batch_has_the_hits_of_each_text(driver, url, col, api):
    texts = [f"{one} {other}" for one in WORDS for other in WORDS[:3]]
    found = driver.search_batch(url, texts, 3, collection=name_of(col), where="n > 4")
    assert found == [col.search(text, 3, client=api, where="n > 4") for text in texts]


def test_documents_are_those_of_the_collection(driver, url, col):
    names = [one.id for one in documents()]
    for name in [names[0], names[1], *names[-5:]]:
        found = driver.document(url, name, collection=name_of(col))
        assert found == col.get(name)
        assert found.spans is None or type(found.spans[0]) is tuple
    for name in ("absent", "doc", "a/b", "texts", " ", ""):
        assert driver.get(url, name, collection=name_of(col)) is col.get(name) is None


def test_the_collections_are_described(driver, url, folders):
    found = {each["name"]: each for each in driver.collections(url)}
    assert list(found) == ["texts", "bits", "empty"]
    with Collection.open(folders / "bits.ctx", read_only=True) as col:
        stats = col.stats()
    for name in ("documents", "chunks", "dimensions", "encoding_format", "space", "model"):
        assert found["bits"][name] == getattr(stats, name)


def test_an_empty_collection_finds_nothing(driver, url):
    assert driver.search(url, "fish", collection="empty") == []
    assert driver.search(url, np.ones(1024, np.int8), collection="empty") == []
    assert driver.search_batch(url, ["fish", "bird"], collection="empty") == [[], []]


def test_refusals_are_those_of_a_collection(driver, url, folders, api):
    wrong = [
        {"where": "yaer > 1"},
        {"where": "n > ?"},
        {"where": "n >"},
        {"where": "(SELECT 1)"},
        {"stage": "three"},
        {"oversample": 2},
        {"dimensions": 4096},
    ]
    with Collection.open(folders / "texts.ctx", read_only=True) as col:
        for options in wrong:
            (argument,) = options
            with pytest.raises(ValueError, match=argument):
                col.search("a", client=api, **options)
            with pytest.raises(UnprocessableEntityError, match=argument):
                driver.search(url, "a", collection="texts", **options)
    with pytest.raises(UnprocessableEntityError, match="k"):
        driver.search(url, "a", 10_001, collection="texts")
    with pytest.raises(UnprocessableEntityError, match="collection"):  # three are served
        driver.search(url, "a")
    with pytest.raises(SpaceError, match="cannot be compared"):
        driver.search(
            url, api.embed_queries(["a"], model="pplx-embed-context-v1-4b", dimensions=1024), collection="texts"
        )


def test_an_unknown_collection_and_a_wrong_key_are_named(driver, url, server):
    with pytest.raises(CollectionError, match="there is no collection 'other' at .*: it serves texts, bits, empty"):
        driver.search(url, "a", collection="other")
    with pytest.raises(AuthenticationError, match="the server returned 401"):
        driver.search(url, "a", _client={"api_key": "wrong-key-0123456789"})
    with pytest.raises(NotFoundError, match="has no search endpoints"):
        driver.search(server.base_url, "a")


def test_a_server_of_one_collection_needs_no_name(driver, fresh_server, folders, api):
    one = fresh_server(collections=(folders / "texts.ctx",))
    with Collection.open(folders / "texts.ctx", read_only=True) as col:
        expected = col.search("fish", 2, client=api)
        assert driver.search(one.base_url, "fish", 2, _client={"api_key": None}) == expected
        assert driver.get(one.base_url, "doc-3") == col.get("doc-3")
        vector = api.embed_queries(["fish"])
        assert driver.search(one.base_url, vector, 2) == expected


def test_a_server_that_comes_back_is_used_again(folders):
    config = ServerConfig(collections=(folders / "texts.ctx",))
    with ServerProcess(config=config) as first, SearchClient(first.base_url, max_retries=0) as client:
        assert client.search("fish", 1)
        first.stop()
        with pytest.raises(ctxembed.APIConnectionError):
            client.search("fish", 1)
        port = first.base_url.rpartition(":")[2]
        with ServerProcess("--port", port, config=config):
            assert client.search("fish", 1)
