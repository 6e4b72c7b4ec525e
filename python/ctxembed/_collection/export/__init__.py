"""Exports: the rows of a collection in the files of other stores.

| modules | what they do |
|---|---|
| ``run`` | chooses the format, and writes one view of a collection |
| ``parquet``, ``npy``, ``faiss``, ``usearch``, ``sqlite_vec``, ``lancedb``, ``pgvector`` | one format each |
| ``arrow``, ``names`` | rows as Arrow batches; the file that names the rows of formats with vectors alone |
| ``target``, ``rows`` | files that appear when they are whole; the rows of a view, in batches |

A module imports only modules in rows below its own.
"""
