"""Counts tokens exactly, as a ``tokenizer.json`` defines them."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, SupportsIndex, cast

import numpy as np

from ctxembed import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TokenCounter"]


class TokenCounter:
    r"""Counts tokens exactly as a tokenizer does.

    Create it with :meth:`from_file` or :meth:`from_pretrained`, and pass it as ``token_counter`` to
    :func:`ctxembed.plan` or to a client.

    A count equals ``len(tokenizer.encode(text).ids)`` of the ``tokenizers`` package. A special or other added token in
    the text counts as one. The tokens of the file's template are included, if it has one (Qwen3's has none).
    Truncation and padding are never applied.

    Attributes
    ----------
    backend : {"native", "tokenizers"}
        ``"native"`` is ctxembed's own counter, for byte-level BPE with the normaliser and the splitting pattern of
        Qwen2 and Qwen3. Other files need the ``tokenizers`` package.
    reason : str or None
        Why the native counter does not support the file; None where it does.
    path : str
        Absolute path of the file.

    Notes
    -----
    Thread-safe; it also works in a forked process. The native counter releases the GIL for all but the shortest texts.
    It caches words in at most 24 MB, beside about 4 MB of tables. A counter pickles as path and checksum, so
    unpickling needs the same file.

    A state machine finds the words that the splitting pattern matches. The tokens of a word are counted by joining
    pairs in order of rank (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016), with
    a heap for long words: O(n log n) for any text of n bytes.

    Examples
    --------
    A tokenizer with the 256 bytes and three merges:

    >>> import ctxembed, json
    >>> printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    >>> letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    >>> pattern = (
    ...     r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    ...     r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ... )
    >>> split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    >>> to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    >>> merges = [["h", "e"], ["r", "o"], ["he", "ro"]]
    >>> vocabulary = {token: i for i, token in enumerate([*letters, *map("".join, merges)])}
    >>> with open("tokenizer.json", "w") as file:
    ...     json.dump({
    ...         "version": "1.0", "added_tokens": [], "normalizer": {"type": "NFC"},
    ...         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
    ...         "post_processor": None, "decoder": None,
    ...         "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    ...     }, file)
    >>> counter = ctxembed.TokenCounter.from_file("tokenizer.json")
    >>> counter.count("heron")  # hero, n
    2
    >>> counter.count_batch(["hero", "", "her"])
    array([1, 0, 2])
    >>> counter.backend
    'native'
    """

    __slots__ = ("_checksum", "_native", "_tokenizer", "path", "reason")

    _native: _core.NativeCounter | None
    _tokenizer: Any
    _checksum: int
    path: str
    reason: str | None

    def __init__(self) -> None:
        raise TypeError("a TokenCounter is made by TokenCounter.from_file or TokenCounter.from_pretrained")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> TokenCounter:
        """Read a ``tokenizer.json``.

        Parameters
        ----------
        path : str or path-like
            A file as the ``tokenizers`` package writes it.

        Returns
        -------
        TokenCounter

        Raises
        ------
        OSError
            The file cannot be read, or is not a regular file.
        ValueError
            The file is not a tokenizer; the native counter does not support it, and the ``tokenizers`` package (extra
            ``tokens``) is not installed or refuses it too; or its counts are random (dropout). The message names the
            part of the file.

        Notes
        -----
        Reads the whole file, which takes about 0.1 s for Qwen3's. The GIL is released.
        """
        counter: TokenCounter = object.__new__(cls)
        counter.path = str(Path(path).absolute())
        counter._tokenizer = counter.reason = None
        _check_regular(counter.path)
        try:
            counter._native = _core.NativeCounter(counter.path)
        except ValueError as error:
            counter._native = None
            counter.reason = str(error)
            counter._checksum = zlib.crc32(Path(counter.path).read_bytes())
            counter._tokenizer = _reference(counter.path, counter.reason)
        else:
            counter._checksum = counter._native.checksum
        return counter

    @classmethod
    def from_pretrained(
        cls, name: str, *, revision: str | None = None, token: str | bool | None = None
    ) -> TokenCounter:
        """Read the ``tokenizer.json`` of a repository on the Hugging Face Hub. It is downloaded once and cached.

        Needs ``huggingface_hub`` (``pip install 'ctxembed[tokens]'``).

        Parameters
        ----------
        name : str
            The repository, ``"owner/name"``.
        revision : str, optional
            A branch, tag or commit. Default: the main branch.
        token : str or bool, optional
            Access token for private repositories, passed to ``huggingface_hub``.

        Returns
        -------
        TokenCounter

        Raises
        ------
        ModuleNotFoundError
            ``huggingface_hub`` is not installed.
        ValueError, OSError
            As for :meth:`from_file`, and the errors of ``huggingface_hub``.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {type(name).__name__}")
        try:
            from huggingface_hub import hf_hub_download
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "from_pretrained needs huggingface_hub: pip install 'ctxembed[tokens]', or pass a file to from_file",
                name=error.name,
            ) from error
        return cls.from_file(hf_hub_download(name, "tokenizer.json", revision=revision, token=token))

    @property
    def backend(self) -> Literal["native", "tokenizers"]:
        """The implementation that counts."""
        return "tokenizers" if self._native is None else "native"

    def count(self, text: str) -> int:
        """Count the tokens of a text.

        Parameters
        ----------
        text : str
            Any text. An empty text has only the tokens of the file's template.

        Returns
        -------
        int

        Raises
        ------
        TypeError
            ``text`` is not a str.
        ValueError
            ``text`` holds a lone surrogate, which UTF-8 cannot encode.

        Notes
        -----
        The native counter shares a text of 400 KB or more between threads, as :meth:`count_batch` does.
        """
        if self._native is not None:
            return self._native.count(text)
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        return int(self.count_batch([text])[0])

    def count_batch(self, texts: Iterable[str], *, threads: SupportsIndex | None = None) -> NDArray[np.int64]:
        """Count the tokens of each text.

        Parameters
        ----------
        texts : iterable of str
            The texts.
        threads : int, optional
            Number of threads. Default: up to the number of CPUs, fewer for little work. The ``tokenizers`` package
            ignores it.

        Returns
        -------
        ndarray of int64, shape (n,)

        Raises
        ------
        TypeError
            ``texts`` is not an iterable of str; a single str is refused.
        ValueError
            A text holds a lone surrogate, which UTF-8 cannot encode; ``threads`` is less than one.

        Notes
        -----
        The native counter cuts texts of 16 KB and more where the counts of the parts add up: after letters, numbers and
        line ends where no word, normalisation or added token goes on. So threads share one text as they share many, and
        only parts that are not in NFC are normalised. A text without such places, such as a megabyte of one letter, is
        counted on one thread.
        """
        if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes, bytearray, list, Mapping, AbstractSet)):
            texts = list(texts)
        known = cast("list[str]", texts)
        if self._native is not None:
            return self._native.count_batch(known, threads)
        _core.token_upper_bound(known)  # raises as the native counter would
        return np.array([len(encoding) for encoding in self._tokenizer.encode_batch_fast(known)], dtype=np.int64)

    def __call__(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Count the tokens of each text, as :meth:`count_batch` does."""
        return self.count_batch(texts)

    def __repr__(self) -> str:
        return f"TokenCounter.from_file({self.path!r})"

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return TokenCounter._restore, (self.path, self._checksum)

    @classmethod
    def _restore(cls, path: str, checksum: int) -> TokenCounter:
        """Unpickle a counter, unless the file has changed."""
        counter: TokenCounter = cls.from_file(path)
        if counter._checksum != checksum:
            raise ValueError(f"{path} is not the file that the pickled TokenCounter was made from: checksums differ")
        return counter


_KINDS: Final = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
)


def _check_regular(path: str) -> None:
    """Raise an OSError for anything but a regular file: reading it might never end."""
    mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat raises no different error
    if stat.S_ISREG(mode):
        return
    kind = next((name for has_kind, name in _KINDS if has_kind(mode)), "special file")
    code = errno.EISDIR if kind == "directory" else errno.EINVAL
    raise OSError(code, f"a tokenizer.json must be a regular file, got a {kind}", path)


def _is_panic(error: BaseException) -> bool:
    """Return whether a package written in Rust has failed: PyO3's exception for that is no Exception."""
    return type(error).__name__ == "PanicException"


def _reference(path: str, reason: str) -> Any:
    """Return the tokenizer of the ``tokenizers`` package, for a file that the native counter does not support."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        hint = "the tokenizers package, which may be able to count it, is not installed: pip install 'ctxembed[tokens]'"
        raise ValueError(f"{path}: {reason}; {hint}") from None
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # it raises nothing more specific
        raise ValueError(f"{path}: {reason}; the tokenizers package refuses it too: {error}") from error
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise ValueError(f"{path}: {reason}; the tokenizers package fails to read it: {error}") from error
    if getattr(tokenizer.model, "dropout", None):
        raise ValueError(f"{path}: model.dropout is set: counts would be random")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
