"""The limits of a request."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ctxembed._models import as_int

__all__ = ["Limits", "check_limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a request. The defaults are the API's documented limits.

    Parameters
    ----------
    documents : int
        Maximum documents of a request.
    chunks : int
        Maximum chunks of a request, over all its documents.
    tokens_per_document : int
        Maximum tokens of a document, separators included. The API documents 32K and does not say whether that is
        32,000 or 32,768. The default is the smaller.
    tokens : int
        Maximum tokens of a request, separators included.

    Raises
    ------
    TypeError
        A limit is not an int.
    ValueError
        A limit is not from 1 to 2**31 - 1.

    Examples
    --------
    >>> Limits(documents=64).tokens
    120000
    """

    documents: int = 512
    chunks: int = 16_000
    tokens_per_document: int = 32_000
    tokens: int = 120_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = as_int(f"Limits.{field.name}", getattr(self, field.name))
            if not 1 <= value < 2**31:
                raise ValueError(f"Limits.{field.name} must be from 1 to {2**31 - 1}, got {value}")
            object.__setattr__(self, field.name, value)


def check_limits(limits: object) -> None:
    """Raise ``TypeError`` unless ``limits`` is a :class:`Limits`."""
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be a ctxembed.Limits, got {limits!r}")
