"""Collections: documents, their metadata and their vectors in one folder.

| modules | what they do |
|---|---|
| ``collection``, ``reader`` | the public class: what writes, what reads |
| ``hybrid`` | words and vectors together |
| ``query``, ``near_duplicates``, ``snapshot`` | search; pairs of documents; copies |
| ``grouping``, ``passages``, ``ranking`` | hits by document; chunks with neighbours; the rows that both are from |
| ``exporting``, ``export`` | the method that writes for other stores, and a module for each of them |
| ``verify``, ``stats`` | compare all checksums; size and cost |
| ``store`` | what a job writes to: one transaction a response |
| ``words`` | opens the index of words, and builds what is missing |
| ``word_states``, ``bm25``, ``terms`` | its files, what it finds, and the terms of a text |
| ``compact``, ``finder``, ``keys`` | rewrite without removed rows; look documents up for a job, by id and by key |
| ``view`` | what is read: one committed state, its index, its documents |
| ``fields``, ``where`` | metadata columns, and the expressions that filter by them |
| ``state``, ``rows`` | which vectors count; vectors on disk: sealed segments and the tail |
| ``catalogue`` | the SQLite database: schema, connections, checksums |
| ``folder``, ``lock`` | the folder and its writer |

A module imports only modules in rows below its own, or to its right in the same row.
"""
