"""The key of a document: equal where its vectors are equal, so that nothing is paid for twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ctxembed import _core
from ctxembed._models import check_dimensions, get_model

if TYPE_CHECKING:
    from ctxembed._models import EncodingFormat, InputType

__all__ = ["DocumentKeys", "document_key"]

_VERSION: Final = b"ctxembed document key 1\n"


class DocumentKeys:
    """The keys of documents that are embedded in the same way.

    Parameters
    ----------
    model : str
        Name of a registered model.
    dimensions : int, optional
        Dimensions of the vectors. Default: the model's.
    encoding_format : {"base64_int8", "base64_binary"}
        Encoding of the vectors.
    input_type : {"document", "query"}
        The role. It makes no difference to a model without input types.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be, or the model is not known.
    """

    __slots__ = ("_hasher",)

    def __init__(
        self,
        model: str,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType = "document",
    ) -> None:
        known = get_model(model)
        if input_type not in ("document", "query"):
            raise ValueError(f"input_type must be 'document' or 'query', got {input_type!r}")
        role = input_type if known.input_types else ""  # else documents and queries are embedded alike
        expected = check_dimensions(known, dimensions, encoding_format)
        texts = (known.name, known.digest or "", encoding_format, role)
        start = b"".join(_sized(text.encode()) for text in texts)
        self._hasher = _core.DocumentHasher(_VERSION + start + _number(expected))

    def key(self, chunks: Iterable[str]) -> bytes:
        """Return the key of one document, 32 bytes. Raises as :func:`document_key` does."""
        texts = chunks if type(chunks) is list else _texts(chunks)
        try:
            return self._hasher.key(texts)
        except (TypeError, UnicodeEncodeError):
            _refuse(texts)
            raise


def _texts(chunks: object) -> list[Any]:
    if isinstance(chunks, str | bytes | bytearray) or not isinstance(chunks, Iterable):
        raise TypeError(f"chunks must be an iterable of str, got {chunks!r:.100}")
    return list(chunks)


def _refuse(chunks: list[str]) -> None:
    """Raise the error that names the first chunk that is no text."""
    for number, chunk in enumerate(chunks):
        if not isinstance(chunk, str):
            raise TypeError(f"chunks[{number}] must be a str, got {type(chunk).__name__}") from None
        try:
            chunk.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"chunks[{number}] holds a lone surrogate (character {error.start}), which UTF-8 cannot encode"
            ) from None


def document_key(
    chunks: Iterable[str],
    *,
    model: str,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
    input_type: InputType = "document",
) -> bytes:
    """Return a key of a document, which is equal for equal vectors.

    Parameters
    ----------
    chunks : iterable of str
        The chunks in their order.
    model : str
        Name of a registered model.
    dimensions : int, optional
        Dimensions of the vectors. Default: the model's.
    encoding_format : {"base64_int8", "base64_binary"}
        Encoding of the vectors.
    input_type : {"document", "query"}
        The role. It makes no difference to a model without input types.

    Returns
    -------
    bytes
        32 bytes.

    Raises
    ------
    TypeError
        ``chunks`` is one text, or holds something else than str.
    ValueError
        A chunk holds a lone surrogate, the model is not known, or it does not offer the dimensions.

    Notes
    -----
    The key is the SHA-256 (FIPS 180-4) of these bytes. A text stands in UTF-8 behind its length in bytes; lengths and
    numbers are unsigned, little-endian, and have 8 bytes. Because of the lengths no two documents give the same bytes.

    1. ``ctxembed document key 1`` and a line feed;
    2. four texts: the model's name, the digest of its weights, the encoding format, and the role; a digest that is
       unknown and the role of a model without input types are empty;
    3. the number of dimensions;
    4. the number of chunks, and each chunk as a text.

    Examples
    --------
    >>> key = document_key(["First chunk.", "Second chunk."], model="pplx-embed-context-v1-0.6b")
    >>> key.hex()
    'ac10954c53e8878e44025ada3cde8f4560068f6c87ac7febef199e1f912d4448'
    """
    return DocumentKeys(model, dimensions, encoding_format, input_type).key(chunks)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _sized(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text
