"""Recognises parts of the input from which stored documents were read, so that they need not be read again."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from ctxembed import _core
from ctxembed._planning.token_counter import TokenCounter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxembed._jobs.reading.documents import ReadOptions

__all__ = ["KnownRecords"]

_READERS: Final = ("semantic-text-splitter", "selectolax")
"""Packages whose version may change what is read."""


class KnownRecords:
    """The records of documents: digests of what they were read from, and of how.

    Parameters
    ----------
    options : ReadOptions
        How the input is read.

    Notes
    -----
    A record is 16 bytes of BLAKE2b (RFC 7693). Until :meth:`use` there are none, nor where a token counter is used that
    is not a :class:`TokenCounter`: two of them cannot be told apart.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._start: Any = None
        self._find: Callable[[bytes], tuple[int, str] | None] = lambda _: None

    def use(self, find: Callable[[bytes], tuple[int, str] | None]) -> None:
        """Make records from now on.

        Parameters
        ----------
        find : callable
            Returns number and id of the next stored document, if it has the given record.
        """
        counter = self._options.token_counter
        if counter is None or isinstance(counter, TokenCounter):
            settings = [_core.__version__, *map(_version, _READERS), *self._options.fingerprint]
            if counter is not None:
                settings += [counter.backend, counter._checksum]  # noqa: SLF001
            self._start = hashlib.blake2b(repr(settings).encode("utf-8", "surrogatepass"), digest_size=16)
            self._find = find

    def look_up(self, content: bytes, *names: str) -> tuple[bytes | None, tuple[int, str] | None]:
        """Return the record of a part of the input, and number and id of the document that was read from it.

        Parameters
        ----------
        content : bytes
            What would be read.
        *names : str
            What else the document depends on.
        """
        if self._start is None:
            return None, None
        digest = self._start.copy()
        if names:
            digest.update(repr(names).encode("utf-8", "surrogatepass"))
        digest.update(content)
        record = digest.digest()
        return record, self._find(record)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
