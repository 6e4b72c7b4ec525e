"""What reading yields, and its options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctxembed._jobs.documents import InputDocument
from ctxembed._planning.chunking import Chunking, check_chunking, chunk_spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from ctxembed._planning.prepare import CountsTokens

__all__ = ["InputDocument", "ReadOptions", "Rejected"]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Part of the input that is not a document: a record, a file, or the rest of a file.

    Attributes
    ----------
    place : str
        The file, and the line or row in it.
    reason : str
        Why it is not a document.
    id : str or None
        Its id, where it has a valid one.
    """

    place: str
    reason: str
    id: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class ReadOptions:
    """How input is read.

    Parameters
    ----------
    id_field, chunks_field, text_field : str
        The fields of a record that have the id, the list of chunks, and the text to cut.
    metadata_fields : tuple of str, optional
        The fields that become metadata. Default: all others.
    chunk_tokens, chunk_overlap : int
        ``max_tokens`` and ``overlap`` of :func:`ctxembed.chunk`, which cuts texts.
    token_counter : TokenCounter or callable, optional
        ``token_counter`` of :func:`ctxembed.chunk`.
    follow_links : bool
        Whether symbolic links that lead out of a folder are read.

    Raises
    ------
    TypeError, ValueError
        An option is invalid.
    """

    id_field: str = "id"
    chunks_field: str = "chunks"
    text_field: str = "text"
    metadata_fields: tuple[str, ...] | None = None
    chunk_tokens: int = 256
    chunk_overlap: int = 0
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None
    follow_links: bool = False
    _chunking: Chunking = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {name: getattr(self, name) for name in ("id_field", "chunks_field", "text_field")}
        for name, value in names.items():
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be the name of a field, got {value!r}")
            if value == "source":
                raise ValueError(f"{name} cannot be 'source', which is the field for the source of a record")
        if len(set(names.values())) < len(names):
            raise ValueError(
                f"the fields must differ: {', '.join(f'{name}={value!r}' for name, value in names.items())}"
            )
        self._check_metadata_fields(set(names.values()))
        try:
            chunking = check_chunking(self.chunk_tokens, self.chunk_overlap, self.token_counter)
        except (TypeError, ValueError) as error:
            message = str(error).replace("max_tokens", "chunk_tokens").replace("overlap", "chunk_overlap")
            raise type(error)(message) from None
        object.__setattr__(self, "_chunking", chunking)

    def _check_metadata_fields(self, others: set[str]) -> None:
        if self.metadata_fields is None:
            return
        if not isinstance(self.metadata_fields, (tuple, list)):
            raise TypeError(f"metadata_fields must be a tuple of str, got {self.metadata_fields!r}")
        object.__setattr__(self, "metadata_fields", tuple(self.metadata_fields))
        for name in self.metadata_fields:
            if not isinstance(name, str) or not name:
                raise ValueError(f"metadata_fields must be names of fields, got {name!r}")
            if name in {*others, "id", "source"}:
                raise ValueError(f"metadata_fields cannot have {name!r}, which has a place of its own")

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """What decides which documents are read, but for the token counter."""
        return (
            self.id_field, self.chunks_field, self.text_field, self.metadata_fields, self.chunk_tokens,
            self.chunk_overlap,
        )  # fmt: skip

    def cut(self, text: str, kind: str = "text") -> tuple[list[str], list[tuple[int, int]]]:
        """Cut a text into chunks.

        Returns
        -------
        chunks : list of str
        spans : list of (start, end)

        Raises
        ------
        ValueError
            The text has a lone surrogate, or the counter returned an invalid result.
        """
        spans = chunk_spans(text, self._chunking, kind)
        return [text[start:end] for start, end in spans], list(spans)
