"""The registry of models: those of the API, and those that the caller registers."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Final, Literal

from ctxembed import _core
from ctxembed._costs import price_of

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_TEXT_MODEL",
    "MIN_DIMENSIONS",
    "SEPARATOR",
    "EncodingFormat",
    "InputType",
    "Model",
    "check_input_type",
    "get_model",
    "models",
    "register_model",
    "registered_space",
]

EncodingFormat = Literal["base64_int8", "base64_binary"]
"""Encoding of vectors in a response: signed bytes, or one bit a dimension, least significant bit first."""

InputType = Literal["document", "query"]
"""The role of an input. Models with input types place documents and queries differently in their space."""

SEPARATOR: Final = "<|endoftext|>"
"""The separator of the v1 models between the chunks of a document."""

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
    input_types : bool
        Whether requests say if their input is ``"document"`` or ``"query"``. A query that is sent as a document ranks
        worse.
    separator : str or None
        Text that the model puts between chunks. A chunk that holds it would misalign every later chunk and is refused.
        None: the model places its separator by token id, so that no text is refused.
    dimension_choices : tuple of int, optional
        The only dimensions that a request can ask for. Default: any from 128 to ``dimensions``.
    space : str, optional
        Name of the vector space. Vectors of one space can be compared, of two models too. Default: the model's name.
    digest : str, optional
        Digest of local weights. It is a part of the space.

    Raises
    ------
    TypeError
        A field has another type. A price must be a ``Decimal``.
    ValueError
        ``dimensions`` is below 128 (without a digest) or none of the choices, the price is negative or not finite, or
        a text is empty.
    """

    name: str
    dimensions: int
    usd_per_million_tokens: Decimal | None
    contextualized: bool = True
    input_types: bool = field(default=False, kw_only=True)
    separator: str | None = field(default=SEPARATOR, kw_only=True)
    dimension_choices: tuple[int, ...] | None = field(default=None, kw_only=True)
    space: str = field(default=None, kw_only=True)  # type: ignore[assignment]  # __post_init__ sets the name
    digest: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Model.name must be a str, got {self.name!r}")
        dimensions = as_int("Model.dimensions", self.dimensions)
        if dimensions < self._least_dimensions:
            raise ValueError(f"Model.dimensions must be at least {self._least_dimensions}, got {dimensions}")
        object.__setattr__(self, "dimensions", dimensions)
        self._check_price()
        for name in ("contextualized", "input_types"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"Model.{name} must be a bool, got {getattr(self, name)!r}")
        for name in ("separator", "space", "digest"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"Model.{name} must be a str or None, got {value!r}")
            if value == "":
                raise ValueError(f"Model.{name} must not be empty: pass None")
        space: object = self.space
        if space is None:
            object.__setattr__(self, "space", self.name)
        if self.dimension_choices is not None:
            object.__setattr__(self, "dimension_choices", self._checked_choices())

    @property
    def _least_dimensions(self) -> int:
        """What the API requires of a request; local weights, which have a digest, may have fewer."""
        return MIN_DIMENSIONS if self.digest is None else 1

    def _checked_choices(self) -> tuple[int, ...]:
        choices: object = self.dimension_choices
        if not isinstance(choices, Iterable) or isinstance(choices, str | bytes):
            raise TypeError(f"Model.dimension_choices must be a tuple of int or None, got {choices!r}")
        checked = tuple(sorted({as_int("Model.dimension_choices", choice) for choice in choices}))
        if not checked or checked[0] < self._least_dimensions or checked[-1] != self.dimensions:
            raise ValueError(
                f"Model.dimension_choices must be at least {self._least_dimensions}, and the largest of them "
                f"Model.dimensions = {self.dimensions}, got {choices!r}"
            )
        return checked

    def _check_price(self) -> None:
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

    def space_of(self, dimensions: int) -> str:
        """Return the space of vectors with that many dimensions.

        It is ``space`` and, where there are any, the digest. A model with ``dimension_choices`` has one space for
        each number of dimensions, so that two models can share one of them.

        Examples
        --------
        >>> get_model("pplx-embed-v2-context-9b").space_of(1024)
        'pplx-embed-v2-context@1024'
        """
        parts = [self.space]
        if self.dimension_choices is not None:
            parts.append(f"@{dimensions}")
        if self.digest is not None:
            parts.append(f"#{self.digest}")
        return "".join(parts)


_REGISTRY: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        Model("pplx-embed-context-v1-0.6b", 1024, Decimal("0.008")),
        Model("pplx-embed-context-v1-4b", 2560, Decimal("0.05")),
        # Names, roles, dimensions and the shared space: the vendor's package page and published weights. The price of
        # the 0.6b is not published, that of the 9b is a reseller's.
        Model(
            "pplx-embed-v2-context-0.6b",
            1024,
            None,
            input_types=True,
            separator="<|chunk_sep|>",
            dimension_choices=(1024,),
            space="pplx-embed-v2-context",
        ),
        Model(
            "pplx-embed-v2-context-9b",
            2048,
            Decimal("0.12"),
            input_types=True,
            separator="<|chunk_sep|>",
            dimension_choices=(1024, 2048),
            space="pplx-embed-v2-context",
        ),
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
    registered_space.cache_clear()
    _core.register_space_of(registered_space)  # the core keeps what the function has returned


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
    choices = model.dimension_choices
    if choices is not None and dimensions not in choices:
        offered = " or ".join(map(str, choices))
        raise ValueError(f"dimensions must be {offered} for {model.name}, got {dimensions}")
    least = min(MIN_DIMENSIONS, model.dimensions) if choices is None else choices[0]
    if not least <= dimensions <= model.dimensions:
        raise ValueError(f"dimensions must be from {least} to {model.dimensions} for {model.name}, got {dimensions}")
    if encoding_format == "base64_binary" and dimensions % 8:
        raise ValueError(f"dimensions must be a multiple of 8 for base64_binary, got {dimensions}")
    return dimensions


def check_input_type(model: Model, input_type: object, default: InputType) -> InputType | None:
    """Return the role to send: ``default`` for None, and None for a model without input types.

    Raises
    ------
    ValueError
        The role is unknown, or the model has no input types.
    """
    if input_type is not None and not model.input_types:
        raise ValueError(f"input_type must be None for {model.name}, which has no input types, got {input_type!r}")
    if not model.input_types:
        return None
    if input_type is None:
        return default
    if input_type in ("document", "query"):
        return input_type
    raise ValueError(f"input_type must be 'document', 'query' or None, got {input_type!r}")


@_core.register_space_of
@lru_cache(maxsize=256)  # each decoded response asks for it
def registered_space(name: str, dimensions: int) -> str | None:
    """Return the space of vectors of a model, or None where it is not registered."""
    model = _REGISTRY.get(name)
    return None if model is None else model.space_of(dimensions)
