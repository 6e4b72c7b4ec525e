"""Reading the body of a response: limits, compression, and decoding while it arrives."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ctxembed._errors import DecodeError

if TYPE_CHECKING:
    from ctxembed._client._http.credentials import Credentials
    from ctxembed._codec import ResponseDecoder
    from ctxembed._results import Embeddings

__all__ = ["BodyReader", "Response"]

_MAX_ERROR_BODY: Final = 64 * 1024  # bytes of an error's body that are read
_KEPT: Final = 16 * 1024  # bytes from the start and from the end of a 200's body that are kept


@dataclass(slots=True)
class Response:
    """A response that was read, with the key redacted wherever the server has echoed it.

    Parameters
    ----------
    status : int
        HTTP status.
    headers : dict of str to str
        Names in lower case, without cookies.
    fault : str or None
        Why the body is incomplete or unreadable.
    decoded : Embeddings, DecodeError or None
        The result of decoding the body of a 200. It is decoded while it arrives, so that it is never held as a whole.
    """

    status: int
    headers: dict[str, str]
    fault: str | None
    decoded: Embeddings | DecodeError | None
    _pieces: tuple[bytes | bytearray, ...] = field(repr=False)
    _credentials: Credentials = field(repr=False)

    @property
    def content(self) -> bytes:
        """The whole body of a 200, which ``keep_body`` kept, decompressed."""
        return self._credentials.redact_body(self.body)

    @property
    def body(self) -> bytes:
        """The same as it came: data for the caller, in which a text may hold the key."""
        return b"".join(self._pieces)

    @property
    def text(self) -> str:
        """The decompressed body as text: the start of an error's, start and end of a 200's."""
        return self._credentials.redact_text(b"".join(self._pieces).decode(errors="replace"))


class BodyReader:
    """Read a body up to a limit and decompress it; decode that of a 200, collect that of an error.

    Parameters
    ----------
    status : int
        HTTP status.
    content_encoding : str
        The header, empty where there is none.
    decoder : ResponseDecoder or None
        Receives the body of a 200. None: the body is kept.
    limit : int
        Bytes that a valid body can have.
    keep_body : bool
        Whether the whole body of a 200 is kept.
    """

    def __init__(
        self, status: int, content_encoding: str, decoder: ResponseDecoder | None, limit: int, *, keep_body: bool
    ) -> None:
        self._is_error = status != 200
        self._decoder = None if self._is_error else decoder
        self._limit = min(limit, _MAX_ERROR_BODY) if self._is_error else limit
        self._error: DecodeError | None = None
        self._start = self._end = b""  # of a 200
        self._whole = bytearray() if keep_body or self._decoder is None else None
        self._size = 0
        self.fault: str | None = None
        coding = content_encoding.strip().lower()
        self._decompressor: Any = None
        if coding in ("gzip", "x-gzip", "deflate"):
            self._decompressor = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, as its header says
        elif coding not in ("", "identity"):
            self.fault = f"its content-encoding is {coding!r}, which was not asked for"

    def feed(self, piece: bytes) -> bool:
        """Add a piece of the body; return whether more is wanted."""
        if self.fault is not None or self._size > self._limit:
            return False
        if self._decompressor is not None:
            try:
                # One byte beyond the limit shows that it is exceeded; a zip bomb is never unpacked further.
                piece = self._decompressor.decompress(piece, self._limit - self._size + 1)
            except zlib.error as error:
                self.fault = f"it is labelled as compressed and is not ({error})"
                return False
        self._size += len(piece)
        if self._size > self._limit and not self._is_error:
            self.fault = f"it is larger than the {self._limit} bytes that the response can need"
            return False
        self._add(piece)
        return self._size <= self._limit

    def _add(self, piece: bytes) -> None:
        if self._decoder is not None and self._error is None:
            try:
                self._decoder.feed(piece)
            except DecodeError as error:
                self._error = error.with_traceback(None)
        if self._whole is not None:
            self._whole += piece
            return
        # The start shows what a body without vectors is. The end may hold `usage`, which was charged all the same.
        room = _KEPT - len(self._start)
        if room > 0:
            self._start += piece[:room]
        if (rest := len(piece) - max(room, 0)) > 0:
            self._end = piece[-_KEPT:] if rest >= _KEPT else (self._end + piece[-rest:])[-_KEPT:]

    def finish(self) -> tuple[tuple[bytes | bytearray, ...], Embeddings | DecodeError | None]:
        """Return the kept pieces of the body, and the embeddings or the ``DecodeError`` of a 200."""
        if (
            self.fault is None
            and self._decompressor is not None
            and not self._decompressor.eof
            and self._size <= self._limit
        ):
            self.fault = "its compressed body ends early"
        decoded: Embeddings | DecodeError | None = self._error
        if self._decoder is not None and self.fault is None and decoded is None:
            try:
                decoded = self._decoder.finish()
            except DecodeError as error:
                decoded = error.with_traceback(None)
        if self._whole is None:
            return (self._start, self._end), decoded
        if self._decoder is None:
            del self._whole[self._limit :]
        return (self._whole,), decoded
