"""What is known before anything is paid for: requests, tokens, price and problems. No I/O happens here."""

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
    """What embedding documents would take.

    Attributes
    ----------
    documents, chunks : int
        All that were given.
    requests : int
        Requests that would be made. Documents with problems are in none.
    tokens, tokens_upper : int
        Tokens that would be sent, separators included: best knowledge (exact with a counter, else an estimate with
        its safety margin), and what they cannot exceed. Equal where exact.
    exact_tokens : bool
        Whether a counter counted.
    lower_bound : int
        For these counts no packing needs fewer requests.
    optimal : bool
        Whether ``requests`` is proven to be the fewest, for these counts.
    cost_usd, cost_usd_upper : Decimal or None
        List price of ``tokens`` and ``tokens_upper``; None where the model's price is not known.
    problems : tuple of Problem
        Everything that the API would refuse.
    model, dimensions, encoding_format : str, int, str
        What would be asked for.
    fill : tuple of int
        Requests by how full they are in tokens: up to a tenth, up to two tenths, and so on to all (ten counts).
    requests_per_minute, minutes : float or None
        The rate that was given, and how long the requests take at it; None where none was given.
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
        """Return all fields as JSON types; prices as strings, so that they stay exact."""
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


_SHOWN = 20  # problems that a plan's text shows; all of them are in the attribute


def _duration(minutes: float) -> str:
    """Return minutes as people say them."""
    return plural(round(60 * minutes), "second") if minutes < 1 else f"{minutes:,.1f} minutes"


def plural(number: int, what: str) -> str:
    """Return how many of what: one of a thing is not some."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _usd(price: Decimal) -> str:
    """Return a price with as many digits as tell something."""
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
    """Say what embedding documents would take, without making a request.

    Parameters
    ----------
    documents : iterable of iterables of str
        Documents as lists of chunks, of any length.
    model : str
        A contextualized model's name.
    dimensions : int, optional
        Dimensions to ask for; the model's own where absent.
    encoding_format : {"base64_int8", "base64_binary"}
        How vectors would travel.
    token_counter : TokenCounter or callable, optional
        Counts exactly: what has ``count_batch``, or a callable, list of str to counts. It is called once, over all
        chunks. Where absent, an estimate with a safety margin: about 1.1 times the exact count for English, Chinese
        and Korean.
    limits : Limits
        What a request and a document may hold.
    requests_per_minute : float, optional
        A rate that you keep; the plan then says how many minutes its requests take at it.

    Returns
    -------
    Plan
        Its ``problems`` hold everything that the API would refuse, not the first only.

    Raises
    ------
    TypeError
        Something that is not an iterable of iterables of str (a flat list of str included), or an argument of
        another type.
    ValueError
        No documents at all; a model that is not known or not contextualized; dimensions or an encoding that the API
        would refuse; a counter's result that cannot be; a rate that is not above 0.

    Notes
    -----
    An iterator is used up. The documents are held while the plan is made, and the interpreter is released for the
    counting and the packing. A document that is estimated to be too large but is not proven to be is planned for a
    request of its own. One that is proven to be is a problem: :func:`split_long` cuts such documents.

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
    prepared = prepare(documents, token_counter=token_counter, limits=limits)
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
    """Count at most how many tokens each text has: the UTF-8 bytes of its NFC form.

    The models' tokenizer, a byte-level BPE, works on the NFC form, and none of its tokens is shorter than a byte, so
    this is never too small. English has between four and five bytes a token, Chinese about four.

    Parameters
    ----------
    texts : iterable of str
        The texts, of any length.

    Returns
    -------
    ndarray of int64, shape (n,)
        Bytes of each text's NFC form.

    Raises
    ------
    TypeError
        ``texts`` is not an iterable of str; one str alone is an error too.
    ValueError
        A text holds a lone surrogate, which UTF-8 cannot encode.

    Notes
    -----
    The interpreter is released while counting.

    Examples
    --------
    >>> import ctxembed
    >>> ctxembed.token_upper_bound(["hello", "\u00e9", "e\u0301"])
    array([5, 2, 2])
    """
    if not isinstance(texts, (str, bytes, list)):
        texts = list(iterate("texts", texts))
    return _core.token_upper_bound(cast("list[str]", texts))
