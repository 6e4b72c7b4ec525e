"""The API key, kept out of every ``repr``, log, exception, traceback and pickle."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

from ctxembed._client._http.redaction import REDACTED, Redactor
from ctxembed._errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["KEY_VARIABLES", "SERVER_KEY_VARIABLE", "Credentials", "KeySource", "key_source", "server_key_source"]

KEY_VARIABLES: Final = ("PERPLEXITY_API_KEY", "PPLX_API_KEY")
"""Environment variables that may hold the key; the first that is set and not empty is used."""

SERVER_KEY_VARIABLE: Final = "CTXEMBED_SERVER_KEY"
"""The environment variable with the keys of a server of ours, separated by commas."""

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


class Credentials:
    """An API key that only :meth:`authorization` shows. An empty one stands for no key."""

    __slots__ = ("_clean_names", "_redactor", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._redactor: Redactor | None = None
        self._clean_names = ""

    def authorization(self) -> str:
        """Return the value of the ``Authorization`` header, or an empty str. Transports call it when they send."""
        return f"Bearer {self._value}" if self._value else ""

    def fingerprint(self, digest: Callable[[bytes], bytes]) -> bytes:
        """Return the digest of the key."""
        return digest(self._value.encode())

    def holds(self, value: str) -> bool:
        """Return whether this is the key."""
        return self._value == value

    def redact_text(self, text: str) -> str:
        """Replace the key, and parts of it, in text from outside, in any of the spellings of ``Redactor``."""
        return self._redact.text(text)

    def redact_body(self, body: bytes) -> bytes:
        """Replace the whole key in the body of a valid response."""
        return self._redact.body(body)

    def redact_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Replace the key in the names and values of headers."""
        redact = self._redact
        names = "\0".join(headers)
        known = names == self._clean_names  # responses of one server have the same names
        if not (redact.concerns("\0".join(headers.values())) or (not known and redact.concerns(names))):
            self._clean_names = names
            return dict(headers)
        # A part of the key in a name is a word of both, such as "request", and the client looks headers up by name.
        return {redact.body(name.encode()).decode(): redact.text(value) for name, value in headers.items()}

    @property
    def _redact(self) -> Redactor:
        if self._redactor is None:
            self._redactor = Redactor(self._value)
        return self._redactor

    def __repr__(self) -> str:
        return f"Credentials({REDACTED!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key cannot be pickled or copied")


class KeySource:
    """The source of the key: a fixed string, or a callable that is called before each attempt."""

    __slots__ = ("_latest", "_source")

    def __init__(self, source: Credentials | Callable[[], str]) -> None:
        self._source = source
        self._latest: Credentials | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no key."""
        return isinstance(self._source, Credentials) and self._source.holds("")

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
        checked = _check(self._source(), "the api_key callable returned", self._latest)
        if isinstance(checked, Credentials):
            self._latest = checked
            return checked
        raise checked

    def __repr__(self) -> str:
        return f"KeySource({REDACTED!r})"

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


def server_key_source(api_key: object) -> KeySource | Exception:
    """Read the key of a server of ours as :func:`key_source` does: it may need none.

    The API's key is never used: it would be sent to another machine than the API's. Of several keys in the environment,
    which a server accepts alike, the first is used.
    """
    if api_key is not None:
        return key_source(api_key)
    value = os.environ.get(SERVER_KEY_VARIABLE, "").partition(",")[0].strip()
    checked = _check(value, f"the key in {SERVER_KEY_VARIABLE} is") if value else Credentials("")
    return KeySource(checked) if isinstance(checked, Credentials) else checked


def _check(value: object, subject: str, latest: Credentials | None = None) -> Credentials | Exception:
    """Return the credentials, or the error to raise. It raises nothing itself, since its frame holds the key.

    ``latest`` is returned where it holds the same key.
    """
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
    return latest if latest is not None and latest.holds(value) else Credentials(value)
