"""The key, kept where nothing shows it: not in a ``repr``, a log, an exception, a traceback's locals or a pickle."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

from ctxembed._errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KEY_VARIABLES", "KeySource", "Secret", "key_source"]

KEY_VARIABLES: Final = ("PERPLEXITY_API_KEY", "PPLX_API_KEY")
"""Environment variables that may hold the key, the first that is set and not empty wins."""

_REDACTED: Final = "***"
_SHORTEST: Final = 4  # a shorter "key" is a test's; replacing it in texts would only garble them
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


class Secret:
    """A string that only :meth:`header` shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def header(self) -> str:
        """Return the value of the ``Authorization`` header. Called at the last moment, by the transport."""
        return f"Bearer {self._value}"

    def fingerprint(self, digest: Callable[[bytes], bytes]) -> bytes:
        """Return what ``digest`` makes of the key."""
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
        """:meth:`redact` for a string."""
        return text if len(self._value) < _SHORTEST else text.replace(self._value, _REDACTED)

    def __repr__(self) -> str:
        return f"Secret({_REDACTED!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key cannot be pickled or copied")


class KeySource:
    """Where the key comes from: a fixed string, or a callable that is asked before each attempt."""

    __slots__ = ("_source",)

    def __init__(self, source: Secret | Callable[[], str]) -> None:
        self._source = source

    @property
    def rotates(self) -> bool:
        """Whether asking again can give another key."""
        return not isinstance(self._source, Secret)

    def fingerprint(self, digest: Callable[[bytes], bytes]) -> object:
        """Return what tells this key from others and is not the key; what tells the callable, where it is one."""
        return self._source.fingerprint(digest) if isinstance(self._source, Secret) else id(self._source)

    def get(self) -> Secret:
        """Return the key to use now.

        Raises
        ------
        TypeError, ValueError
            The callable returned something that cannot be a key. The message does not show it.
        """
        if isinstance(self._source, Secret):
            return self._source
        checked = _check(self._source(), "the api_key callable returned")
        if isinstance(checked, Secret):
            return checked
        raise checked

    def __repr__(self) -> str:
        return f"KeySource({_REDACTED!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be pickled or copied: it holds an API key and open connections")


def key_source(api_key: object) -> KeySource | Exception:
    """Take the ``api_key`` argument, or the environment.

    Returns what to raise instead of raising it: the caller does so after it has let go of ``api_key``, and then no
    frame of the traceback holds the key.
    """
    if callable(api_key):
        return KeySource(api_key)
    said = "api_key is"
    if api_key is None:
        for name in KEY_VARIABLES:
            if os.environ.get(name):
                api_key, said = os.environ[name], f"the key in {name} is"
                break
        else:
            return MissingKeyError(
                f"no API key: pass api_key, or set {' or '.join(KEY_VARIABLES)} (neither is set, or both are empty)"
            )
    checked = _check(api_key, said)
    return KeySource(checked) if isinstance(checked, Secret) else checked


def _check(value: object, said: str) -> Secret | Exception:
    """Return the secret, or what to raise. Raises nothing itself: its frame holds the key."""
    if not isinstance(value, str):
        return TypeError(f"{said} a {type(value).__name__}: expected a str, or a callable that returns one")
    if not value:
        return ValueError(f"{said} empty")
    if _PRINTABLE.fullmatch(value) is None:
        where = next(i for i, character in enumerate(value) if not "\x21" <= character <= "\x7e")
        return ValueError(
            f"{said} not usable in a header: expected printable ASCII without spaces, and character {where} of "
            f"{len(value)} is not (a line break from a file? the key itself is not shown)"
        )
    return Secret(value)
