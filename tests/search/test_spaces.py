"""An index knows the space of its vectors, and takes embeddings of no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import BinaryIndex, Embeddings, Index, SpaceError

OLD_FILES = Path(__file__).parents[1] / "data" / "index"
SMALL, LARGE, V1 = "pplx-embed-v2-context-0.6b", "pplx-embed-v2-context-9b", "pplx-embed-context-v1-0.6b"


def embeddings(model=LARGE, dimensions=None, *, binary=False, input_type=None, seed=0, rows=6, **changed):
    known = ctxembed.get_model(model)
    dimensions = dimensions or known.dimensions
    vectors = np.random.default_rng(seed).integers(-128, 128, (rows, dimensions), dtype=np.int8)
    emb = Embeddings(
        vectors=vectors,
        offsets=np.arange(rows + 1),
        model=model,
        dimensions=dimensions,
        encoding_format="base64_int8",
        space=known.space_of(dimensions),
        input_type=input_type or ("document" if known.input_types else None),
    )
    emb = replace(emb, **changed)
    return emb.to_binary() if binary else emb


def as_query(emb):
    return replace(emb, input_type="query" if emb.input_type else None)


KINDS = [pytest.param(Index, False, id="Index"), pytest.param(BinaryIndex, True, id="BinaryIndex")]


@pytest.mark.parametrize(("kind", "binary"), KINDS)
@pytest.mark.parametrize(
    ("stored", "searched"),
    [
        pytest.param((V1, None), (V1, None), id="the same model"),
        pytest.param((V1, 512), (V1, 512), id="the same model, fewer dimensions"),
        pytest.param((LARGE, 1024), (SMALL, 1024), id="documents of the large model, queries of the small one"),
        pytest.param((SMALL, 1024), (LARGE, 1024), id="documents of the small model, queries of the large one"),
        pytest.param((LARGE, 2048), (LARGE, 2048), id="the large model"),
    ],
)
def test_embeddings_of_one_space_are_added_and_searched(kind, binary, stored, searched):
    documents, queries = embeddings(*stored, binary=binary), as_query(embeddings(*searched, binary=binary, seed=1))
    index = kind(documents.dimensions)
    assert index.space is None
    ids = index.add(documents, ids=np.arange(6) + 100)
    assert ids.tolist() == [100, 101, 102, 103, 104, 105]
    assert index.space == documents.space
    index.add(replace(documents, model=None, space=None))  # an unknown space is not checked
    plain = kind(documents.dimensions)
    plain.add(documents.vectors, ids=ids)
    plain.add(documents.vectors)
    for search in (
        lambda index, queries: index.search(queries, 3),
        lambda index, queries: index.search_range(queries, 10 if binary else 0.1),
    ):
        found, expected = search(index, queries), search(plain, queries.vectors)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.scores, expected.scores)
    radius = 10**6 if binary else 0.0
    np.testing.assert_array_equal(index.count(queries, radius), plain.count(queries.vectors, radius))
    assert index.calibrate(queries, 2).oversample == plain.calibrate(queries.vectors, 2).oversample


@pytest.mark.parametrize(("kind", "binary"), KINDS)
@pytest.mark.parametrize(
    ("stored", "given", "words"),
    [
        pytest.param((V1, 1024), (SMALL, 1024), 'of the space "pplx-embed-v2-context@1024"', id="other models"),
        pytest.param((V1, 1024), ("pplx-embed-context-v1-4b", 1024), "cannot be compared", id="other sizes"),
        pytest.param((V1, 1024), ("pplx-embed-v1-0.6b", 1024), "cannot be compared", id="not contextualized"),
        pytest.param((LARGE, 2048), (LARGE, 1024), "2048 dimensions, and the embeddings have 1024", id="dimensions"),
        pytest.param((V1, 512), (V1, 256), "512 dimensions, and the embeddings have 256", id="a shorter prefix"),
    ],
)
def test_embeddings_of_another_space_are_refused(kind, binary, stored, given, words):
    index = kind(stored[1])
    index.add(embeddings(*stored, binary=binary))
    for call in (
        lambda: index.add(embeddings(*given, binary=binary)),
        lambda: index.search(as_query(embeddings(*given, binary=binary)), 3),
        lambda: index.search_range(as_query(embeddings(*given, binary=binary)), 1),
        lambda: index.count(as_query(embeddings(*given, binary=binary)), 1),
        lambda: index.calibrate(as_query(embeddings(*given, binary=binary)), 1),
    ):
        with pytest.raises(SpaceError, match=words.replace("(", r"\(")) as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert caught.value.code == "CTX-021"
    assert len(index) == 6


@pytest.mark.parametrize(("kind", "binary"), KINDS)
def test_a_wrong_role_is_refused(kind, binary):
    documents = embeddings(LARGE, binary=binary)
    index = kind(2048)
    with pytest.raises(SpaceError, match=r"embed instead of embed_queries, or pass \.vectors"):
        index.add(as_query(documents))
    assert (len(index), index.space) == (0, None)
    index.add(documents)
    with pytest.raises(SpaceError, match=r"embed_queries instead of embed, or pass \.vectors"):
        index.search(documents, 1)
    assert index.search(documents.vectors, 1).ids[:, 0].tolist() == list(range(6))


def test_a_prefix_of_a_space_with_named_dimensions_is_searched_with_its_own_space():
    documents = embeddings(LARGE)
    index = Index(2048)
    index.add(documents)
    queries = as_query(documents.truncate(1024))
    assert queries.space == "pplx-embed-v2-context@1024"
    expected = index.search(documents.vectors, 2, dimensions=1024)
    for given in (queries, as_query(documents)):
        np.testing.assert_array_equal(index.search(given, 2, dimensions=1024).ids, expected.ids)
    with pytest.raises(SpaceError, match="cannot be compared"):
        index.search(replace(queries, space="another@1024"), 2, dimensions=1024)
    with pytest.raises(SpaceError, match="dimensions"):
        index.search(queries, 2, dimensions=512)


def test_truncated_vectors_of_the_large_model_are_of_the_shared_space():
    truncated = embeddings(LARGE).truncate(1024)
    assert truncated.space == embeddings(SMALL).space
    index = Index(1024, space=truncated.space)
    index.add(truncated)
    index.search(as_query(embeddings(SMALL)), 1)
    assert embeddings(V1).truncate(128).space == V1
    assert replace(truncated, space="mine@1024#5f3a").truncate(512).space == "mine@512#5f3a"
    assert embeddings(LARGE).to_binary().space == embeddings(LARGE).space


@pytest.mark.parametrize(("kind", "binary"), KINDS)
def test_the_file_keeps_the_space(tmp_path, kind, binary):
    index = kind(2048, space="stand-in:pplx é 🦜")
    index.add(replace(embeddings(LARGE, binary=binary), space="stand-in:pplx é 🦜"))
    index.calibrate(as_query(embeddings(LARGE, binary=binary, space=None)), 2)
    index.save(tmp_path / "a.idx")
    for mmap in (True, False):
        opened = kind.open(tmp_path / "a.idx", mmap=mmap, verify=True)
        assert (opened.space, opened.oversample, len(opened)) == (index.space, index.oversample, 6)
        with pytest.raises(SpaceError, match="stand-in:pplx"):
            opened.search(as_query(embeddings(LARGE, binary=binary)), 1)
    opened.save(tmp_path / "b.idx")
    assert (tmp_path / "a.idx").read_bytes() == (tmp_path / "b.idx").read_bytes()


ROWS = [
    [-67, -50, -8, -90, 34, -46, 59, 84, -63, -55, -63, 39, -79, -128, -25, -36],
    [104, -7, 51, -106, -97, 57, 102, 51, 125, 59, -100, -39, 43, 62, -80, 92],
    [112, -67, 25, -42, 102, -31, -83, 36, 124, -92, 76, -82, -128, 8, -31, 12],
    [-125, -98, 68, -110, 115, 120, -90, 67, -107, -46, 105, -105, -97, -31, -32, 55],
    [-22, -58, 27, 66, -105, -33, 24, -9, -2, -15, -97, 76, -63, 43, 12, 18],
]
BITS = [[241, 206], [159, 221], [112, 251], [14, 191], [155, 123]]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("kind", "name", "rows"), [(Index, "int8", ROWS), (BinaryIndex, "binary", BITS)])
@pytest.mark.parametrize("mmap", [True, False])
def test_files_of_older_versions_open(tmp_path, kind, name, rows, version, mmap):
    path = tmp_path / "old.idx"
    shutil.copy(OLD_FILES / f"{name}-version-{version}.idx", path)
    index = kind.open(path, mmap=mmap, verify=True)
    ids = [0, 1, 2, 3, 4] if version == 1 else [7, -3, 2**40, 0, 5]
    assert index.vectors(ids).tolist() == rows
    assert (len(index), index.dims, index.space) == (5, 16, None)
    assert (index.oversample == 64) == (version == 1)
    index.save(tmp_path / "new.idx")
    assert (tmp_path / "new.idx").read_bytes() == path.read_bytes()  # without a space nothing changes


def test_rows_of_an_unknown_space_stay_unknown():
    index = Index(1024)
    index.add(embeddings(V1).vectors)
    index.add(embeddings(V1))
    index.add(embeddings(SMALL))
    assert index.space is None


def test_a_failed_addition_leaves_no_space():
    index = Index(1024)
    with pytest.raises(ValueError, match="unique"):
        index.add(embeddings(V1), ids=[1, 1, 2, 3, 4, 5])
    assert index.space is None
    index.add(embeddings(SMALL))


@pytest.mark.parametrize(
    ("space", "error"),
    [("", ValueError), ("a\0b", ValueError), ("x" * 4097, ValueError), (5, TypeError), (b"a", TypeError)],
)
def test_a_space_is_a_short_text(space, error):
    for kind in (Index, BinaryIndex):
        with pytest.raises(error, match="space must"):
            kind(64, space=space)


def test_embeddings_of_the_other_encoding_are_refused_by_dtype():
    index = Index(1024)
    with pytest.raises(TypeError, match="int8"):
        index.add(embeddings(V1, binary=True))
    binary = BinaryIndex(1024)
    with pytest.raises(TypeError, match="uint8"):
        binary.add(embeddings(V1))
    binary.add(embeddings(V1, binary=True))
    assert binary.search(embeddings(V1), 1).ids[:, 0].tolist() == list(range(6))  # int8 queries, asymmetric


def test_parts_of_a_stream_are_embeddings_too():
    emb = embeddings(V1)
    fields = {name: getattr(emb, name) for name in emb.__dataclass_fields__}
    part = ctxembed.EmbeddingsPart(**fields, documents=np.arange(6))
    index = Index(1024)
    index.add(part)
    assert (len(index), index.space) == (6, V1)


def test_embeddings_of_before_a_reload_of_the_package_are_taken_too():
    code = """
        import sys, ctxembed
        body = b'{"data":[{"index":0,"data":[{"index":0,"embedding":"AQID"}]}]}'
        before = ctxembed.decode_response(body)
        for name in [name for name in sys.modules if name.partition(".")[0] == "ctxembed"]:
            del sys.modules[name]
        import ctxembed
        index = ctxembed.Index(3)
        index.add(before)
        index.add(ctxembed.decode_response(body))
        print(len(index))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout == "2\n"


@pytest.mark.parametrize("argument", [None, "text", [1, 2], object(), 5])
def test_neither_an_array_nor_embeddings_is_a_type_error(argument):
    for index in (Index(16), BinaryIndex(16)):
        for call in (index.add, lambda argument, index=index: index.search(argument, 1)):
            with pytest.raises(TypeError, match="numpy array"):
                call(argument)
