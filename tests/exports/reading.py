"""Reads exports with the libraries that they are for."""

from __future__ import annotations

import json
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest

ENDINGS = {
    "parquet": ".parquet",
    "npy": ".npy",
    "faiss": ".faiss",
    "usearch": ".usearch",
    "sqlite-vec": ".sqlite",
    "lancedb": ".lancedb",
    "pgvector": ".pgcopy",
}
MODULES = {
    "parquet": "pyarrow",
    "faiss": "faiss",
    "usearch": "usearch",
    "sqlite-vec": "sqlite_vec",
    "lancedb": "lancedb",
}


def need(name):
    """Skip the test where the library of a format is not installed. `make test-exports` installs all of them."""
    if name in MODULES:
        pytest.importorskip(MODULES[name])


def read(path, name, dimensions):
    """Return the rows of an export as (id, chunk, text, metadata, bytes of the vector)."""
    return _READERS[name](Path(path), dimensions)


def with_names(path, vectors):
    with Path(f"{path}.jsonl").open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    assert len(rows) == len(vectors)
    assert all(list(row) == ["id", "chunk", "text", "metadata"] for row in rows)
    return [(*row.values(), vector.tobytes()) for row, vector in zip(rows, vectors, strict=True)]


def arrow_rows(table):
    assert table.column_names == ["id", "chunk", "text", "metadata", "vector"]
    columns = table.to_pydict()
    kind = table.schema.field("vector").type
    vectors = columns["vector"]
    if not str(kind).startswith("fixed_size_binary"):
        dtype = {"int8": np.int8, "uint8": np.uint8, "halffloat": np.float16}[str(kind.value_type)]
        vectors = [np.array(vector, dtype).tobytes() for vector in vectors]
    metadata = [None if text is None else json.loads(text) for text in columns["metadata"]]
    return list(zip(columns["id"], columns["chunk"], columns["text"], metadata, vectors, strict=True))


def _read_parquet(path, _dimensions):
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return arrow_rows(file.read())


def _read_npy(path, _dimensions):
    return with_names(path, np.load(path))


def faiss_vectors(path):
    """Return the rows of either index, as faiss gives them."""
    import faiss

    if path.read_bytes()[:4] == b"IBxF":
        index = faiss.read_index_binary(str(path))
        assert type(index) is faiss.IndexBinaryFlat
        return faiss.vector_to_array(index.xb).reshape(index.ntotal, index.code_size)
    index = faiss.read_index(str(path))
    assert (type(index), index.metric_type) == (faiss.IndexFlatIP, faiss.METRIC_INNER_PRODUCT)
    return index.reconstruct_n(0, index.ntotal)


def _read_faiss(path, _dimensions):
    return with_names(path, faiss_vectors(path))


def _read_usearch(path, _dimensions):
    from usearch.index import Index

    index = Index.restore(str(path))
    return with_names(path, [index.get(key) for key in range(len(index))])


def open_vec(path, driver=None):
    """Connect to a database with sqlite-vec: by the SQLite of Python where it can load extensions, else by apsw."""
    import sqlite_vec

    if driver is None:
        driver = "sqlite3" if hasattr(sqlite3.Connection, "enable_load_extension") else "apsw"
    connect = sqlite3.connect if driver == "sqlite3" else pytest.importorskip("apsw").Connection
    connection = connect(str(path))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)
    return connection


def _read_sqlite_vec(path, _dimensions):
    connection = open_vec(path)
    rows = list(connection.execute("SELECT rowid, id, chunk, text, metadata, vector FROM chunks ORDER BY rowid"))
    connection.close()
    assert [number for number, *_ in rows] == list(range(len(rows)))
    return [
        (name, chunk, text, None if metadata is None else json.loads(metadata), vector)
        for _, name, chunk, text, metadata, vector in rows
    ]


def _read_lancedb(path, _dimensions):
    import lancedb

    table = lancedb.connect(str(path)).open_table("chunks")
    return arrow_rows(table.to_arrow())


def _read_pgvector(path, dimensions):
    """Parse the file of the binary COPY, as far as these five columns need it."""
    content, at, rows = path.read_bytes(), 19, []
    assert content[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    while content[at : at + 2] != b"\xff\xff":
        assert content[at : at + 2] == b"\0\5"
        at, values = at + 2, []
        for _ in range(5):
            (length,) = struct.unpack_from(">i", content, at)
            values.append(None if length < 0 else content[at + 4 : at + 4 + length])
            at += 4 + max(0, length)
        name, chunk, text, metadata, vector = values
        if len(vector) == 4 + 2 * dimensions:
            assert struct.unpack_from(">hh", vector) == (dimensions, 0)
            vector = np.frombuffer(vector[4:], ">f2").astype(np.float16).tobytes()
        else:
            assert struct.unpack_from(">i", vector) == (dimensions,)
            turned = np.unpackbits(np.frombuffer(vector[4:], np.uint8))  # PostgreSQL: most significant bit first
            vector = np.packbits(turned, bitorder="little").tobytes()
        assert metadata is None or metadata[:1] == b"\x01"
        rows.append((
            name.decode(), int.from_bytes(chunk), None if text is None else text.decode(),
            None if metadata is None else json.loads(metadata[1:]), vector,
        ))  # fmt: skip
    assert len(content) == at + 2
    kind = f"halfvec({dimensions})" if not rows or len(rows[0][4]) == 2 * dimensions else f"bit({dimensions})"
    statements = Path(f"{path}.sql").read_text(encoding="utf-8")
    assert kind in statements or not rows
    return rows


_READERS = {
    "parquet": _read_parquet,
    "npy": _read_npy,
    "faiss": _read_faiss,
    "usearch": _read_usearch,
    "sqlite-vec": _read_sqlite_vec,
    "lancedb": _read_lancedb,
    "pgvector": _read_pgvector,
}
