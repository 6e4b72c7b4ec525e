"""One request's bytes, and what its answer proves. No I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._codec import ResponseDecoder
from ctxembed._errors import APIStatusError, BadResponseError, status_error
from ctxembed._models import check_dimensions, get_model
from ctxembed._results import Embeddings, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxembed._client._http.credentials import Secret
    from ctxembed._client._http.transport import Reply
    from ctxembed._models import EncodingFormat

__all__ = ["CONTEXTUALIZED", "TEXTS", "Call", "blamed", "is_refusal"]

CONTEXTUALIZED: Final = "/v1/contextualizedembeddings"
TEXTS: Final = "/v1/embeddings"

_SHOWN_TEXT: Final = 8 * 1024  # characters of a body that an exception keeps
_SHOWN_START: Final = 500  # of a 200 that is not what it should be
_SLACK: Final = 64 * 1024  # bytes that an answer may have beside its rows, ``usage`` and whitespace included
_ROW: Final = 512  # bytes of keys, indexes and whitespace around one vector

_USAGE: Final = re.compile(r'"usage"\s*:\s*(?=\{)')
_EXACT: Final = json.JSONDecoder(parse_float=Decimal)


@dataclass(frozen=True, slots=True)
class Call:
    """What all requests of one call have in common.

    Parameters
    ----------
    path : str
        Endpoint.
    model : str
        As the request names it.
    asked : int or None
        ``dimensions`` as the request says it; left out where None.
    dimensions : int
        Dimensions that the answer must have.
    encoding_format : {"base64_int8", "base64_binary"}
        What travels.
    """

    path: str
    model: str
    asked: int | None
    dimensions: int
    encoding_format: EncodingFormat

    @classmethod
    def of(cls, path: str, model: str, dimensions: int | None, encoding_format: Any) -> Call:
        """Check the arguments.

        Raises
        ------
        TypeError, ValueError
            The model is unknown or of the other kind, or the dimensions or the format are not what it offers.
        """
        known = get_model(model, contextualized=path == CONTEXTUALIZED)
        expected = check_dimensions(known, dimensions, encoding_format)
        return cls(path, known.name, None if dimensions is None else expected, expected, encoding_format)

    @property
    def flat(self) -> bool:
        """Whether the input is a list of texts."""
        return self.path == TEXTS

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return self.dimensions if self.encoding_format == "base64_int8" else self.dimensions // 8

    @property
    def dtype(self) -> type[np.int8 | np.uint8]:
        """Of the vectors."""
        return np.int8 if self.encoding_format == "base64_int8" else np.uint8

    @property
    def rest(self) -> bytes:
        """What follows the documents in a request's body."""
        return _rest(self)

    def body(self, documents: list[list[str]]) -> bytes:
        """Write a request's body.

        Raises
        ------
        UnicodeEncodeError
            A chunk holds a lone surrogate, which UTF-8 cannot say.
        """
        return _core.encode_request(documents, self.rest, flat=self.flat)

    def longest_answer(self, documents: int, chunks: int) -> int:
        """Bytes that the answer can need, with room for whitespace and unknown keys."""
        return _SLACK + documents * _ROW + chunks * (_ROW + 4 * -(-self.width // 3))

    def decoder(self, shape: Sequence[int]) -> ResponseDecoder:
        """Make what takes one answer to documents of these chunks, as it arrives."""
        return ResponseDecoder(shape=shape, dimensions=self.dimensions, encoding_format=self.encoding_format)

    def read(self, reply: Reply, secret: Secret) -> Embeddings | Exception:
        """Turn a reply into vectors, or into what is wrong with it (not raised: no frames, no locals)."""
        if not 200 <= reply.status < 300:
            return _status_error(reply, secret)
        if reply.status != 200:
            return self._bad(f"the API answered {reply.status} and no vectors", reply, secret)
        if reply.fault is not None:
            return self._bad(f"the API's answer cannot be read: {reply.fault}", reply, secret)
        result = reply.decoded
        if not isinstance(result, Embeddings):
            bad = self._bad(f"the API's answer does not prove itself: {result}", reply, secret)
            bad.__cause__ = result
            return bad
        if result.model is not None and result.model != self.model:
            return self._bad(f"the API answered with model {result.model!r} instead of {self.model!r}", reply, secret)
        return result

    @staticmethod
    def _bad(message: str, reply: Reply, secret: Secret) -> BadResponseError:
        start = reply.body[: 4 * _SHOWN_START].decode(errors="replace")[:_SHOWN_START]
        return BadResponseError(secret.redact_text(message), secret.redact_text(start))


@lru_cache(maxsize=64)
def _rest(call: Call) -> bytes:
    options: dict[str, object] = {"model": call.model, "encoding_format": call.encoding_format}
    if call.asked is not None:
        options["dimensions"] = call.asked
    return json.dumps(options, separators=(",", ":")).encode()[1:]


def _status_error(reply: Reply, secret: Secret) -> APIStatusError:
    text = reply.body.decode(errors="replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text[:_SHOWN_TEXT]
    return status_error(reply.status, secret.redact(body), reply.headers)


def spent(kept: bytes) -> Usage:
    """Read the ``usage`` of an answer that is of no other use, as far as it can be read: it was paid all the same.

    Parameters
    ----------
    kept : bytes
        The body, or its start and end.
    """
    text = kept.decode(errors="replace")
    for found in reversed([*_USAGE.finditer(text)]):
        try:
            usage, _ = _EXACT.raw_decode(text, found.end())
            prompt, total = usage.get("prompt_tokens"), usage.get("total_tokens")
            price = usage.get("cost") or {}
            cost = price.get("total_cost") if price.get("currency", "USD") == "USD" else None
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        return Usage(
            prompt if type(prompt) is int else None,
            total if type(total) is int else None,
            Decimal(cost) if isinstance(cost, int | Decimal) and not isinstance(cost, bool) else None,
            1,
        )
    return Usage()


def is_refusal(error: BaseException) -> bool:
    """Say whether the API refused what was sent, so that a part of it may pass."""
    return isinstance(error, APIStatusError) and error.status_code in (400, 413, 422)


def blamed(error: BaseException, documents: int) -> list[int] | None:
    """Read which documents a refusal names.

    Returns
    -------
    list of int or None
        Positions in the request, ascending, empty where it names none; None where it names something else that all
        requests share, such as the model.
    """
    body = error.body if isinstance(error, APIStatusError) else None
    detail = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(detail, list) or not detail:
        return []
    named: set[int] = set()
    shared = True
    for entry in detail:
        where = entry.get("loc") if isinstance(entry, dict) else None
        if not isinstance(where, list) or "input" not in where:
            shared = shared and isinstance(where, list) and len(where) > 1 and isinstance(where[1], str)
            continue
        shared = False
        after = where[where.index("input") + 1 :]
        if after and type(after[0]) is int and 0 <= after[0] < documents:
            named.add(after[0])
    return None if shared else sorted(named)
