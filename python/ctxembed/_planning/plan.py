"""The plan of a job before anything is paid for: requests, tokens, price and problems. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ctxembed import _core
from ctxembed._models import DEFAULT_MODEL, EncodingFormat, check_dimensions, get_model
from ctxembed._planning.limits import Limits
from ctxembed._planning.prepare import iterate, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from numpy.typing import ArrayLike, NDArray

    from ctxembed._planning.prepare import CountsTokens
    from ctxembed._results import Problem

__all__ = ["Plan", "plan", "plural", "token_upper_bound"]


@dataclass(frozen=True, repr=False)
class Plan:
    """The requests, tokens and cost of embedding some documents.

    Attributes
    ----------
    documents, chunks : int
        All documents and their chunks, those with problems included.
    requests : int
        Requests to send. They hold the documents without problems.
    tokens, tokens_upper : int
        Tokens to send, separators included, and their upper bound. ``tokens`` is exact with a token counter, else an
        estimate with a margin. The two are equal where exact.
    exact_tokens : bool
        Whether a token counter was used.
    lower_bound : int
        Proven minimum of requests for these token counts.
    optimal : bool
        Whether ``requests`` equals ``lower_bound``.
    cost_usd, cost_usd_upper : Decimal or None
        List price of ``tokens`` and ``tokens_upper``; None where the model's price is unknown.
    problems : tuple of Problem
        Everything that the API would refuse.
    model, dimensions, encoding_format : str, int, str
        The options of the requests.
    fill : tuple of int
        Histogram of the requests by tokens, as a share of the limit: up to a tenth, up to two tenths, and so on (ten
        counts).
    requests_per_minute, minutes : float or None
        The rate that was passed, and the duration of the requests at that rate. None without a rate.
    """

    documents: int
    chunks: int
    requests: int
    tokens: int
    tokens_upper: int
    exact_tokens: bool
    lower_bound: int
    optimal: bool
    cost_usd: Decimal | None
    cost_usd_upper: Decimal | None
    problems: tuple[Problem, ...]
    model: str
    dimensions: int
    encoding_format: str
    fill: tuple[int, ...]
    requests_per_minute: float | None = None
    minutes: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types. Prices are strings, which keeps them exact."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("cost_usd", "cost_usd_upper"):
            fields[name] = None if fields[name] is None else format(fields[name], "f")
        fields["problems"] = [
            {"document": problem.document, "chunk": problem.chunk, "reason": problem.reason}
            for problem in self.problems
        ]
        fields["fill"] = list(self.fill)
        return fields

    def __str__(self) -> str:
        bound = "proven fewest" if self.optimal else f"at least {self.lower_bound:,} are needed"
        lines = [
            f"{plural(self.documents, 'document')}, {plural(self.chunks, 'chunk')}",
            f"{plural(self.requests, 'request')} ({bound})",
        ]
        if self.exact_tokens:
            lines.append(f"{plural(self.tokens, 'token')} (counted)")
        else:
            lines.append(f"{plural(self.tokens, 'token')} (estimated with a margin; at most {self.tokens_upper:,})")
        if self.cost_usd is None or self.cost_usd_upper is None:
            lines.append(f"price of {self.model} not known")
        elif self.exact_tokens:
            lines.append(f"USD {_usd(self.cost_usd)} for {self.model}, {self.dimensions} dimensions")
        else:
            prices = f"USD {_usd(self.cost_usd)} to {_usd(self.cost_usd_upper)}"
            lines.append(f"{prices} for {self.model}, {self.dimensions} dimensions")
        if self.minutes is not None:
            lines.append(f"{_duration(self.minutes)} at {self.requests_per_minute:g} requests a minute")
        lines.extend(self._histogram())
        if self.problems:
            lines.append(f"problems ({len(self.problems):,}):")
            lines.extend(f"  {problem}" for problem in self.problems[:_SHOWN])
            if len(self.problems) > _SHOWN:
                lines.append(f"  ... and {len(self.problems) - _SHOWN:,} more")
        return "\n".join(lines)

    __repr__ = __str__

    def _histogram(self) -> Iterable[str]:
        most = max(self.fill)
        for tenth, count in enumerate(self.fill):
            if count:
                bar = "#" * max(1, round(24 * count / most))
                yield f"  {10 * tenth:3}-{10 * tenth + 10:<3}% full {bar} {count:,}"


_SHOWN = 20  # problems that the text of a plan shows; the attribute has all


def _duration(minutes: float) -> str:
    """Format minutes as text."""
    return plural(round(60 * minutes), "second") if minutes < 1 else f"{minutes:,.1f} minutes"


def plural(number: int, what: str) -> str:
    """Return a number with its noun, in singular or plural."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _usd(price: Decimal) -> str:
    """Format a price with at least two significant digits."""
    digits = max(2, 1 - price.adjusted()) if price else 2
    return f"{price:,.{digits}f}"


def plan(
    documents: Iterable[Iterable[str]],
    *,
    model: str = DEFAULT_MODEL,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    requests_per_minute: float | None = None,
) -> Plan:
    """Plan the requests, tokens and cost of embedding documents. No request is sent.

    Parameters
    ----------
    documents : iterable of iterables of str
        The chunks of each document in their order.
    model : str
        A contextualized model.
    dimensions : int, optional
        From 128 to the model's. Default: the model's.
    encoding_format : {"base64_int8", "base64_binary"}
        int8 vectors, or one bit a dimension.
    token_counter : TokenCounter or callable, optional
        Counts tokens exactly: a :class:`TokenCounter`, or a callable from a list of str to counts. It is called once,
        with all chunks. Default: an estimate with a margin, about 1.1 times the exact count for English, Chinese and
        Korean. For a model of another vocabulary than that of the v1 models it is a quarter larger.
    limits : Limits
        The limits of a request and a document.
    requests_per_minute : float, optional
        Rate for ``Plan.minutes``.

    Returns
    -------
    Plan
        Its ``problems`` list everything that the API would refuse.

    Raises
    ------
    TypeError
        ``documents`` is not an iterable of iterables of str (a flat list of str is refused), or another argument has
        a wrong type.
    ValueError
        There are no documents; the model is unknown or not contextualized; the API would refuse the dimensions or the
        encoding; the counter returned an invalid result; or the rate is not above 0.

    Notes
    -----
    An iterator is consumed, and all documents are held in memory. The GIL is released for counting and packing. A
    document whose estimate exceeds a limit, but whose proven minimum does not, gets a request of its own. A document
    that certainly exceeds a limit is a problem; :func:`split_long` cuts such documents.

    Examples
    --------
    >>> import ctxembed
    >>> p = ctxembed.plan([["One chunk.", "Another chunk."], ["A document of one chunk."], []])
    >>> p.requests, p.documents, p.chunks
    (1, 3, 3)
    >>> print(p.problems[0])
    document 2: has no chunks: a document needs at least one
    """
    rate = _check_rate(requests_per_minute)
    entry = get_model(model, contextualized=True)
    dimensions = check_dimensions(entry, dimensions, encoding_format)
    prepared = prepare(documents, token_counter=token_counter, limits=limits, model=entry)
    tokens = int(prepared.tokens[prepared.sendable].sum())
    tokens_upper = int(prepared.tokens_upper[prepared.sendable].sum())
    loads = np.array([prepared.tokens[request].sum() for request in prepared.requests], dtype=np.int64)
    tenths = np.clip((10 * loads - 1) // limits.tokens, 0, 9)
    return Plan(
        documents=len(prepared.documents),
        chunks=int(prepared.offsets[-1]),
        requests=len(prepared.requests),
        tokens=tokens,
        tokens_upper=tokens_upper,
        exact_tokens=prepared.exact,
        lower_bound=prepared.lower_bound,
        optimal=prepared.lower_bound == len(prepared.requests),
        cost_usd=entry.cost(tokens),
        cost_usd_upper=entry.cost(tokens_upper),
        problems=prepared.problems,
        model=entry.name,
        dimensions=dimensions,
        encoding_format=encoding_format,
        fill=tuple(np.bincount(tenths, minlength=10).tolist()),
        requests_per_minute=rate,
        minutes=None if rate is None else len(prepared.requests) / rate,
    )


def _check_rate(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"requests_per_minute must be a number or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"requests_per_minute must be finite and above 0, got {value!r}")
    return float(value)


def token_upper_bound(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return an upper bound of each text's tokens: the UTF-8 bytes of its NFC form.

    The models' tokenizer is a byte-level BPE on the NFC form, and each of its tokens has at least one byte. English
    has between four and five bytes a token, Chinese about four.

    Parameters
    ----------
    texts : iterable of str
        The texts.

    Returns
    -------
    ndarray of int64, shape (n,)
        Bytes of each text's NFC form.

    Raises
    ------
    TypeError
        ``texts`` is not an iterable of str; a single str is refused.
    ValueError
        A text holds a lone surrogate, which UTF-8 cannot encode.

    Notes
    -----
    The GIL is released.

    Examples
    --------
    >>> import ctxembed
    >>> ctxembed.token_upper_bound(["hello", "\u00e9", "e\u0301"])
    array([5, 2, 2])
    """
    if not isinstance(texts, (str, bytes, list)):
        texts = list(iterate("texts", texts))
    return _core.token_upper_bound(cast("list[str]", texts))
