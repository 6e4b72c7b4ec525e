"""The registry of models: those of the API, and those that the caller registers."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from ctxembed._costs import price_of

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_TEXT_MODEL",
    "MIN_DIMENSIONS",
    "SEPARATOR",
    "EncodingFormat",
    "Model",
    "get_model",
    "models",
    "register_model",
]

EncodingFormat = Literal["base64_int8", "base64_binary"]
"""Encoding of vectors in a response: signed bytes, or one bit a dimension, least significant bit first."""

SEPARATOR: Final = "<|endoftext|>"
"""The model's separator between the chunks of a document. A chunk that holds it would misalign every later one."""

MIN_DIMENSIONS: Final = 128
"""The API's minimum of ``dimensions`` (reference page of the endpoint)."""

DEFAULT_MODEL: Final = "pplx-embed-context-v1-0.6b"
DEFAULT_TEXT_MODEL: Final = "pplx-embed-v1-0.6b"


def as_int(name: str, value: object, expected: str = "an int") -> int:
    """Return an integer of any type, NumPy's included, as an int. Refuse a bool with a ``TypeError``."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} must be {expected}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the API.

    Parameters
    ----------
    name : str
        Name in requests.
    dimensions : int
        Dimensions of a full vector. A request can ask for any number from 128 to this.
    usd_per_million_tokens : Decimal or None
        List price; None where unknown, which leaves the cost of a plan unknown.
    contextualized : bool
        Whether it embeds chunks in the context of their document. Vectors of the two kinds cannot be compared.

    Raises
    ------
    TypeError
        A field has another type. A price must be a ``Decimal``.
    ValueError
        ``dimensions`` is below 128, or the price is negative or not finite.
    """

    name: str
    dimensions: int
    usd_per_million_tokens: Decimal | None
    contextualized: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Model.name must be a str, got {self.name!r}")
        dimensions = as_int("Model.dimensions", self.dimensions)
        if dimensions < MIN_DIMENSIONS:
            raise ValueError(f"Model.dimensions must be at least {MIN_DIMENSIONS}, got {dimensions}")
        object.__setattr__(self, "dimensions", dimensions)
        price = self.usd_per_million_tokens
        if price is None:
            return
        if not isinstance(price, Decimal):  # a float cannot hold most prices exactly
            raise TypeError(
                f'Model.usd_per_million_tokens must be a Decimal, as Decimal("0.02"), or None, got {price!r}'
            )
        if not (price.is_finite() and price >= 0):
            raise ValueError(f"Model.usd_per_million_tokens must be finite and at least 0, got {price}")

    def cost(self, tokens: int) -> Decimal | None:
        """Return the exact list price of ``tokens`` in USD; None where the price is unknown."""
        if self.usd_per_million_tokens is None:
            return None
        return price_of(tokens, self.usd_per_million_tokens)


_REGISTRY: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        Model("pplx-embed-context-v1-0.6b", 1024, Decimal("0.008")),
        Model("pplx-embed-context-v1-4b", 2560, Decimal("0.05")),
        Model("pplx-embed-v1-0.6b", 1024, Decimal("0.004"), contextualized=False),
        Model("pplx-embed-v1-4b", 2560, Decimal("0.03"), contextualized=False),
    )
}


def models() -> tuple[Model, ...]:
    """Return all models: the API's and the registered ones."""
    return tuple(_REGISTRY.values())


def register_model(model: Model) -> None:
    """Register a model in this process. It replaces a model of the same name.

    Parameters
    ----------
    model : Model
        The model.

    Raises
    ------
    TypeError
        ``model`` is not a :class:`Model`.

    Examples
    --------
    >>> from decimal import Decimal
    >>> register_model(Model("pplx-embed-context-v1-0.6b", 1024, Decimal("0.008")))
    """
    if not isinstance(model, Model):
        raise TypeError(f"model must be a ctxembed.Model, got {model!r}")
    _REGISTRY[model.name] = model


def get_model(name: str, *, contextualized: bool | None = None) -> Model:
    """Return the model with a name.

    Parameters
    ----------
    name : str
        Name in requests.
    contextualized : bool, optional
        Kind of model that is required. Default: either.

    Returns
    -------
    Model

    Raises
    ------
    TypeError
        ``name`` is not a str.
    ValueError
        The name is unknown, or the model is of the other kind. The message lists the valid names.
    """
    if not isinstance(name, str):
        raise TypeError(f"model must be a str, got {type(name).__name__}")
    model = _REGISTRY.get(name)
    if model is None or contextualized not in (None, model.contextualized):
        fitting = [m.name for m in _REGISTRY.values() if contextualized in (None, m.contextualized)]
        what = "not known" if model is None else ("not contextualized" if contextualized else "contextualized")
        raise ValueError(
            f"model {name!r} is {what}: expected one of {', '.join(fitting)} (ctxembed.register_model adds others)"
        )
    return model


def check_dimensions(model: Model, dimensions: int | None, encoding_format: str) -> int:
    """Return the dimensions of the response, or raise ``ValueError`` where the API would refuse the request."""
    if encoding_format not in ("base64_int8", "base64_binary"):
        raise ValueError(f"encoding_format must be 'base64_int8' or 'base64_binary', got {encoding_format!r}")
    if dimensions is None:
        return model.dimensions
    dimensions = as_int("dimensions", dimensions, "an int or None")
    if not MIN_DIMENSIONS <= dimensions <= model.dimensions:
        raise ValueError(
            f"dimensions must be from {MIN_DIMENSIONS} to {model.dimensions} for {model.name}, got {dimensions}"
        )
    if encoding_format == "base64_binary" and dimensions % 8:
        raise ValueError(f"dimensions must be a multiple of 8 for base64_binary, got {dimensions}")
    return dimensions
