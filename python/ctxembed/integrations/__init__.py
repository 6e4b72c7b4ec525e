"""Adapters for frameworks, each a module of its own with an extra of its own. Importing this package imports none.

- ``ctxembed.integrations.langchain``: ``CtxembedVectorStore``, ``CtxembedEmbeddings``
- ``ctxembed.integrations.llama_index``: ``ContextualEmbedder``
- ``ctxembed.integrations.haystack``: ``CtxembedDocumentEmbedder``, ``CtxembedTextEmbedder``

Frameworks hand chunks over one by one. All adapters put them back into their documents, in order, and refuse a document
of which a part is missing: a contextualized model would embed the rest as another document.
"""
