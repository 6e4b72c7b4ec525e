"""The protocol that every embedder implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat, InputType, Model
    from ctxembed._results import Embeddings

__all__ = ["Embedder"]


class Embedder(Protocol):
    """Embeds documents and counts their tokens on this machine.

    Notes
    -----
    The server calls all methods from several threads at once.
    """

    @property
    def model(self) -> Model:
        """The model that is used where a call names none."""

    @property
    def context_tokens(self) -> int:
        """Tokens of one pass at most. A longer document takes several; a longer chunk cannot be embedded."""

    def embed(
        self,
        documents: Sequence[Sequence[str]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType | None = None,
        check: Callable[[], object] | None = None,
    ) -> Embeddings:
        """Embed chunks in the context of their documents.

        Parameters
        ----------
        documents : sequence of sequence of str
            At least one document, each with at least one chunk. No chunk is empty.
        model : str or None
            Name of a model; None for the embedder's own.
        dimensions : int or None
            Dimensions of the vectors; None for the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 values, or packed bits.
        input_type : {"document", "query"} or None
            Role of the input; None for ``"document"`` where the model has input types.
        check : callable or None
            Called before each pass of the model, that is a document, a batch of documents, or a part of a long one. It
            may wait; what it raises ends the call and is raised.

        Returns
        -------
        Embeddings
            One row a chunk, in input order, with no failures and no usage. A document's rows do not depend on the
            other documents.

        Raises
        ------
        ValueError
            The embedder does not know the model, or cannot produce the dimensions, the format or the role.
        """

    def space(self, model: str, dimensions: int) -> str:
        """Return the name of the space of a model's vectors, which the server sends with every response.

        Parameters
        ----------
        model : str
            Name of a model.
        dimensions : int
            Dimensions of the vectors.

        Returns
        -------
        str
            Equal for vectors that can be compared.
        """

    def count_tokens(self, documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Count the tokens of each document, separators included, as ``usage`` reports them.

        Parameters
        ----------
        documents : sequence of sequence of str
            Chunks of each document.

        Returns
        -------
        ndarray of int64, shape (n_documents,)
        """
