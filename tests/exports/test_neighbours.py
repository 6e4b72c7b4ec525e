"""The exact search of another store finds the neighbours that ours finds, for 1,000 queries."""

from __future__ import annotations

import json
import sqlite3

import ctxembed
import numpy as np
import pytest
from ctxembed import reverse_bit_order

from tests.exports.corpus import ALMOST, DIMENSIONS, NEARLY_ALL, PREFIX, QUERIES, K, best, check_neighbours
from tests.exports.reading import open_vec


def test_the_comparison_sees_a_wrong_neighbour(corpus):
    scores, ours = corpus.cosines()
    assert check_neighbours(ours, (scores, ours)) == QUERIES
    wrong = ours.copy()
    wrong[5, 9] = np.argsort(-scores[5])[30]
    with pytest.raises(AssertionError):
        check_neighbours(wrong, (scores, ours), ALMOST)
    assert check_neighbours(best(scores), (scores, ours), ALMOST) >= NEARLY_ALL


def test_a_wrong_order_of_bits_shows_only_in_products_and_in_prefixes_that_end_within_a_byte(corpus):
    """Why stores are asked for these: Hamming distances of whole bytes are the same in any order."""
    turned = reverse_bit_order(corpus.bits)
    distances = ctxembed.hamming(reverse_bit_order(corpus.query_bits), turned)
    check_neighbours(best(-distances.astype(float)), corpus.distances())
    with pytest.raises(AssertionError):
        check_neighbours(best(corpus.products_of(ctxembed.unpack_bits(turned))), corpus.products())
    with pytest.raises(AssertionError):
        check_neighbours(best(-corpus.distances_of(turned, PREFIX)), corpus.prefix_distances())
    check_neighbours(best(corpus.products_of(ctxembed.unpack_bits(corpus.bits))), corpus.products())
    check_neighbours(best(-corpus.distances_of(corpus.bits, PREFIX)), corpus.prefix_distances())


# --- parquet, npy ---


@pytest.mark.parametrize("vectors", ["int8", "bytes"])
def test_parquet_int8(corpus, tmp_path, vectors):
    parquet = pytest.importorskip("pyarrow.parquet")
    corpus.collection.export(tmp_path / "a.parquet", vectors=vectors)
    column = parquet.read_table(tmp_path / "a.parquet")["vector"].combine_chunks()
    assert str(column.type).startswith("fixed_size_list<" if vectors == "int8" else "fixed_size_binary[256]")
    buffer = column.buffers()[-1] if vectors == "bytes" else column.flatten().to_numpy()
    rows = np.frombuffer(buffer, np.int8).reshape(-1, DIMENSIONS)
    index = ctxembed.Index(DIMENSIONS)
    index.add(rows)
    assert check_neighbours(index.search(corpus.queries, K).ids, corpus.cosines()) == QUERIES


def test_npy(corpus, tmp_path):
    corpus.collection.export(tmp_path / "a.npy")
    rows = np.load(tmp_path / "a.npy", mmap_mode="r").astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert check_neighbours(best(corpus.queries @ rows.T), corpus.cosines(), 1e-4) >= NEARLY_ALL


@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_bits_of_files(corpus, tmp_path, ending):
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        corpus.collection.export(path, vectors="bits")
        column = parquet.read_table(path)["vector"].combine_chunks()
        bits = np.frombuffer(column.buffers()[-1], np.uint8).reshape(-1, DIMENSIONS // 8)
    else:
        corpus.collection.export(path, vectors="bits")
        bits = np.load(path)
    check_neighbours(best(-ctxembed.hamming(corpus.query_bits, bits).astype(float)), corpus.distances())
    check_neighbours(best(corpus.products_of(ctxembed.unpack_bits(bits))), corpus.products())


# --- faiss ---


def test_faiss_bits(corpus, tmp_path):
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "a.faiss"
    corpus.collection.export(path)
    index = faiss.read_index_binary(str(path))
    assert (type(index), index.d, index.ntotal) == (faiss.IndexBinaryFlat, DIMENSIONS, len(corpus.keys))
    distances, ids = index.search(corpus.query_bits, K)
    scores, _ = expected = corpus.distances()
    check_neighbours(ids, expected)
    assert np.array_equal(distances, -np.take_along_axis(scores, ids, axis=1))
    bits = faiss.vector_to_array(index.xb).reshape(-1, DIMENSIONS // 8)
    check_neighbours(best(corpus.products_of(ctxembed.unpack_bits(bits))), corpus.products())


def test_the_order_of_bits_is_that_of_faiss_and_a_zero_is_not(corpus):
    faiss = pytest.importorskip("faiss")
    rows = corpus.vectors.astype(np.float32)
    packed = np.zeros_like(corpus.bits)
    faiss.real_to_binary(rows.size, faiss.swig_ptr(np.ascontiguousarray(rows)), faiss.swig_ptr(packed))
    whole = (corpus.vectors != 0).all(axis=1)
    assert not whole.all()
    different = np.unpackbits(packed ^ corpus.bits, axis=1, bitorder="little").astype(bool)
    assert np.array_equal(different, corpus.vectors == 0)


def test_faiss_float32(corpus, tmp_path):
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "a.faiss"
    assert corpus.collection.export(path, vectors="float32").note is not None
    index = faiss.read_index(str(path))
    assert type(index) is faiss.IndexFlatIP
    scores, ids = index.search(ctxembed.normalize(corpus.queries), K)
    cosines, _ = expected = corpus.cosines()
    assert check_neighbours(ids, expected, ALMOST) >= NEARLY_ALL
    assert np.allclose(scores, np.take_along_axis(cosines, ids, axis=1), atol=ALMOST)


# --- usearch ---


def test_usearch_int8(corpus, tmp_path):
    usearch = pytest.importorskip("usearch.index")
    corpus.collection.export(tmp_path / "a.usearch")
    index = usearch.Index.restore(str(tmp_path / "a.usearch"))
    found = index.search(corpus.queries, K, exact=True)
    assert check_neighbours(found.keys.astype(np.int64), corpus.cosines(), ALMOST) >= NEARLY_ALL
    near = index.search(corpus.queries, K).keys
    ours = corpus.cosines()[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(near, ours, strict=True)]) > 0.9 * K


def test_usearch_bits(corpus, tmp_path):
    usearch = pytest.importorskip("usearch.index")
    corpus.collection.export(tmp_path / "a.usearch", vectors="bits")
    index = usearch.Index.restore(str(tmp_path / "a.usearch"))
    found = index.search(corpus.query_bits, K, exact=True)
    check_neighbours(found.keys.astype(np.int64), corpus.distances())
    bits = np.stack([index.get(key) for key in range(len(index))])
    check_neighbours(best(corpus.products_of(ctxembed.unpack_bits(bits))), corpus.products())


# --- sqlite-vec ---

DRIVERS = [
    pytest.param(
        "sqlite3",
        marks=pytest.mark.skipif(
            not hasattr(sqlite3.Connection, "enable_load_extension"),
            reason="this Python was built without loadable extensions of SQLite",
        ),
    ),
    "apsw",
]


def nearest(connection, statement, queries):
    return [[row for (row,) in connection.execute(statement, (query.tobytes(),))] for query in queries]


@pytest.mark.parametrize("driver", DRIVERS)
def test_sqlite_vec_int8(corpus, tmp_path, driver):
    pytest.importorskip("sqlite_vec")
    corpus.collection.export(tmp_path / "a.sqlite")
    connection = open_vec(tmp_path / "a.sqlite", driver)
    statement = f"SELECT rowid FROM chunks WHERE vector MATCH vec_int8(?) AND k = {K}"
    found = nearest(connection, statement, corpus.queries)
    assert check_neighbours(found, corpus.cosines(), ALMOST) >= NEARLY_ALL
    connection.close()


@pytest.mark.parametrize("driver", DRIVERS)
def test_sqlite_vec_bits(corpus, tmp_path, driver):
    pytest.importorskip("sqlite_vec")
    corpus.collection.export(tmp_path / "a.db", vectors="bits")
    connection = open_vec(tmp_path / "a.db", driver)
    statement = f"SELECT rowid FROM chunks WHERE vector MATCH vec_bit(?) AND k = {K}"
    check_neighbours(nearest(connection, statement, corpus.query_bits), corpus.distances())
    # The bits in the order in which sqlite-vec has them.
    shown = connection.execute("SELECT vec_to_json(vector) FROM chunks ORDER BY rowid")
    signs = np.array([json.loads(text) for (text,) in shown]) * 2 - 1
    check_neighbours(best(corpus.products_of(signs)), corpus.products())
    connection.close()


def test_a_zero_is_1_here_and_0_in_the_quantizer_of_sqlite_vec(corpus, tmp_path):
    pytest.importorskip("sqlite_vec")
    corpus.collection.export(tmp_path / "a.db", vectors="bits", where="id = 'doc-1'")
    connection = open_vec(tmp_path / "a.db")
    row = corpus.collection.vectors(["doc-1"])[0]
    assert (row == 0).any()
    statement = "SELECT vec_distance_hamming(vector, {}) FROM chunks WHERE chunk = 0"
    [(ours,)] = connection.execute(statement.format("vec_bit(?)"), (ctxembed.pack_bits(row[None]).tobytes(),))
    [(theirs,)] = connection.execute(statement.format("vec_quantize_binary(vec_int8(?))"), (row.tobytes(),))
    assert (ours, theirs) == (0, np.count_nonzero(row == 0))
    connection.close()
