"""Models that run on this machine, behind the same calls as a client.

- :func:`load` reads a folder of Hugging Face, or downloads it (extra ``onnx``).
- :func:`demo` is a small model that comes with a package (extra ``demo``).

Both return a :class:`LocalEmbedder`, which stands wherever a client does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxembed._backends.minilm import minilm_folder
from ctxembed._backends.onnx.embedder import LocalEmbedder
from ctxembed._backends.onnx.loading import embedder_of, folder_of

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["LocalEmbedder", "demo", "load"]

LocalEmbedder.__module__ = __name__


def load(
    path_or_id: str | PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    max_document_tokens: int | None = None,
    long_documents: str = "windows",
    overlap_chunks: int = 0,
    batch_tokens: int | None = None,
    name: str | None = None,
    graph: str | None = None,
) -> LocalEmbedder:
    """Load a model of Hugging Face's format with an ONNX graph, and check that it can embed chunks in context.

    Nothing in the folder is executed. It needs ``config.json``, ``tokenizer.json`` and ``onnx/model.onnx`` or
    ``model.onnx`` with its external data, and says what separates chunks (``sep_token``).

    Parameters
    ----------
    path_or_id : str or path-like
        A folder, or ``ORGANISATION/NAME[@REVISION]`` of the Hugging Face hub (``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and
        ``HF_TOKEN`` have their usual effect).
    device : {"auto", "cpu", "cuda"}
        Where it runs. ``"auto"`` takes a GPU where the installed onnxruntime finds one.
    threads : int, optional
        Of a CPU. Default: one for each CPU that the process may use.
    max_document_tokens : int, optional
        Tokens of one pass at most. Default: the model's context, and on a CPU at most 2,048, since time and memory grow
        with the square of the length.
    long_documents : {"windows", "refuse"}
        Whether a document that is longer is cut at chunk boundaries into windows, whose chunks do not see the other
        windows, or is refused.
    overlap_chunks : int
        Chunks of context that a window gets on each side, as far as they fit.
    batch_tokens : int, optional
        Tokens of a batch at most, padding included. Default: one pass at a time on a CPU, where that is faster, 16,384
        on a GPU. Batches are off where a model gives other vectors in them.
    name : str, optional
        Of the model. Default: that of the folder, or of the id.
    graph : str, optional
        The ONNX file, relative to the folder: ``"onnx/model_quantized.onnx"``.

    Returns
    -------
    LocalEmbedder
        Its model is registered, unless it has the name of a model of the API.

    Raises
    ------
    ImportError
        ``onnxruntime`` or ``tokenizers`` is not installed: ``pip install 'ctxembed[onnx]'``.
    FileNotFoundError
        The folder, or a file of it, is not there.
    OSError
        The model cannot be downloaded.
    ValueError
        The model cannot embed chunks in context: its graph is causal or pooled, it has no separator, its pooling is no
        mean, it needs prompts or further layers. Or the folder has the name of a model of the API, and another
        architecture. The message says which.

    Notes
    -----
    The digest of weights, tokenizer and settings is a part of the vectors' space, so that vectors of two weights are
    never compared unnoticed.
    """
    folder = folder_of(path_or_id, name=name, graph=graph, extra="onnx")
    return embedder_of(
        folder,
        "onnx",
        device=device,
        threads=threads,
        max_document_tokens=max_document_tokens,
        long_documents=long_documents,
        overlap_chunks=overlap_chunks,
        batch_tokens=batch_tokens,
    )


def demo(
    *,
    device: str = "auto",
    threads: int | None = None,
    max_document_tokens: int | None = None,
    long_documents: str = "windows",
    overlap_chunks: int = 0,
    batch_tokens: int | None = None,
) -> LocalEmbedder:
    """Load ``all-MiniLM-L6-v2``, a small English model of 384 dimensions, from a package: nothing is downloaded.

    For demos and tests. The model was trained on single sentences and has a context of 512 tokens.

    Parameters
    ----------
    device, threads, max_document_tokens, long_documents, overlap_chunks, batch_tokens
        As in :func:`load`.

    Returns
    -------
    LocalEmbedder

    Raises
    ------
    ImportError
        Its packages are not installed: ``pip install 'ctxembed[demo]'``.
    ValueError
        The file of the package is not the one that was tested.

    Examples
    --------
    >>> embedder = ctxembed.backends.demo()
    >>> embedder.embed([["The heron stood in the reeds.", "It caught a fish."]])
    Embeddings(1 documents, 2 chunks, 384 dimensions, base64_int8, model='all-MiniLM-L6-v2')
    """
    return embedder_of(
        minilm_folder(),
        "demo",
        device=device,
        threads=threads,
        max_document_tokens=max_document_tokens,
        long_documents=long_documents,
        overlap_chunks=overlap_chunks,
        batch_tokens=batch_tokens,
    )
