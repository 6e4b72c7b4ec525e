"""The API key, kept out of every ``repr``, log, exception, traceback and pickle."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

from ctxembed._errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KEY_VARIABLES", "Credentials", "KeySource", "key_source"]

KEY_VARIABLES: Final = ("PERPLEXITY_API_KEY", "PPLX_API_KEY")
"""Environment variables that may hold the key; the first that is set and not empty is used."""

_REDACTED: Final = "***"
_MIN_REDACTED: Final = 4  # a shorter key is a test's, and redacting it would garble texts
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


class Credentials:
    """An API key that only :meth:`authorization` shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def authorization(self) -> str:
        """Return the value of the ``Authorization`` header. Transports call it when they send."""
        return f"Bearer {self._value}"

    def fingerprint(self, digest: Callable[[bytes], bytes]) -> bytes:
        """Return the digest of the key."""
        return digest(self._value.encode())

    def redact(self, value: object) -> object:
        """Replace the key in a string, or in all strings of a JSON value."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, dict):
            return {self.redact(key): self.redact(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [self.redact(entry) for entry in value]
        return value

    def redact_text(self, text: str) -> str:
        """Replace the key in a string."""
        return text if len(self._value) < _MIN_REDACTED else text.replace(self._value, _REDACTED)

    def __repr__(self) -> str:
        return f"Credentials({_REDACTED!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key cannot be pickled or copied")


class KeySource:
    """The source of the key: a fixed string, or a callable that is called before each attempt."""

    __slots__ = ("_source",)

    def __init__(self, source: Credentials | Callable[[], str]) -> None:
        self._source = source

    @property
    def rotates(self) -> bool:
        """Whether the key can change from one attempt to the next."""
        return not isinstance(self._source, Credentials)

    def fingerprint(self, digest: Callable[[bytes], bytes]) -> object:
        """Return a value that identifies the key, or the callable, without holding it."""
        return self._source.fingerprint(digest) if isinstance(self._source, Credentials) else id(self._source)

    def get(self) -> Credentials:
        """Return the current key.

        Raises
        ------
        TypeError, ValueError
            The callable returned a value that cannot be a key. The message does not show it.
        """
        if isinstance(self._source, Credentials):
            return self._source
        checked = _check(self._source(), "the api_key callable returned")
        if isinstance(checked, Credentials):
            return checked
        raise checked

    def __repr__(self) -> str:
        return f"KeySource({_REDACTED!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be pickled or copied: it holds an API key and open connections")


def key_source(api_key: object) -> KeySource | Exception:
    """Read the ``api_key`` argument, or the environment.

    An error is returned instead of raised: the caller raises it after deleting ``api_key``, so that no frame of the
    traceback holds the key.
    """
    if callable(api_key):
        return KeySource(api_key)
    subject = "api_key is"
    if api_key is None:
        for name in KEY_VARIABLES:
            if os.environ.get(name):
                api_key, subject = os.environ[name], f"the key in {name} is"
                break
        else:
            return MissingKeyError(
                f"no API key: pass api_key, or set {' or '.join(KEY_VARIABLES)} (neither is set, or both are empty)"
            )
    checked = _check(api_key, subject)
    return KeySource(checked) if isinstance(checked, Credentials) else checked


def _check(value: object, subject: str) -> Credentials | Exception:
    """Return the credentials, or the error to raise. It raises nothing itself, since its frame holds the key."""
    if not isinstance(value, str):
        return TypeError(f"{subject} a {type(value).__name__}: expected a str, or a callable that returns one")
    if not value:
        return ValueError(f"{subject} empty")
    if _PRINTABLE.fullmatch(value) is None:
        where = next(i for i, character in enumerate(value) if not "\x21" <= character <= "\x7e")
        return ValueError(
            f"{subject} not usable in a header: expected printable ASCII without spaces, and character {where} of "
            f"{len(value)} is not (a line break from a file? the key itself is not shown)"
        )
    return Credentials(value)
