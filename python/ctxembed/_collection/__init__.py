"""Collections: documents, their metadata and their vectors in one folder.

| modules | what they do |
|---|---|
| ``collection``, ``reader`` | the public class: what writes, what reads |
| ``exporting``, ``export`` | the method that writes for other stores, and a module for each of them |
| ``hybrid``, ``query`` | search: words and vectors together, vectors |
| ``words`` | opens the index of words, and builds what is missing |
| ``word_states``, ``bm25``, ``terms`` | its files, what it finds, and the terms of a text |
| ``verify``, ``store`` | compare all checksums; what a job writes to: one transaction a response |
| ``compact``, ``finder`` | rewrite a collection without removed rows; look documents up for a job |
| ``view`` | what is read: one committed state, its index, its documents |
| ``fields``, ``where`` | metadata columns, and the expressions that filter by them |
| ``state``, ``rows`` | which vectors count; vectors on disk: sealed segments and the tail |
| ``catalogue`` | the SQLite database: schema, connections, checksums |
| ``folder``, ``lock`` | the folder and its writer |

A module imports only modules in rows below its own, or to its right in the same row.
"""
