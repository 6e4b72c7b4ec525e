"""A stand-in for the model's token count: a rule of thumb, in one function that an exact counter can replace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["count_tokens", "load_counter"]


def load_counter(path: str | Path) -> Callable[[str], int]:
    """Make an exact counter of a vocabulary's ``tokenizer.json``.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    callable
        ``str -> int``: :class:`ctxembed.TokenCounter`'s where the package has it, else that of ``tokenizers``.

    Raises
    ------
    ValueError
        The file is not there or is not a vocabulary, or nothing that reads it is installed.
    """
    import ctxembed

    if not Path(path).is_file():
        raise ValueError(f"tokenizer: no such file: {str(path)!r}")
    ours: Any = getattr(ctxembed, "TokenCounter", None)
    if ours is not None:
        count: Callable[[str], int] = ours.from_file(str(path)).count
        return count
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ValueError("tokenizer: counting exactly needs a package: pip install tokenizers") from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  # what the package raises has no type of its own
        raise ValueError(f"tokenizer: {str(path)!r} is not a vocabulary: {error}") from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def count_tokens(text: str) -> int:
    """Estimate how many tokens a chunk costs, without a vocabulary.

    Parameters
    ----------
    text : str
        One chunk.

    Returns
    -------
    int
        At least 1, and never more than the text's UTF-8 bytes.

    Notes
    -----
    Byte-level BPE spends about one token on a common English word of up to eight letters with the blank before it,
    one on a punctuation mark that touches a word, one on a line break with its indentation, and one on about five
    bytes of other scripts. So a piece between blanks costs: letters alone, ``ceil(letters / 8)``; other ASCII,
    ``ceil(characters / 4)``; anything else, ``ceil(bytes / 5)``; and each line with something on it that follows
    another costs one. The rule leans low rather than high: a client that counts exactly fills requests to the
    limit, and a server that overcounts would refuse what the API takes.

    Examples
    --------
    >>> count_tokens("The quick brown fox")
    4
    >>> count_tokens("internationalization")
    3
    """
    total = 0
    for piece in text.split():
        if not piece.isascii():
            total += (len(piece.encode("utf-8", "surrogatepass")) + 4) // 5
        elif piece.isalpha():
            total += (len(piece) + 7) // 8
        else:
            total += (len(piece) + 3) // 4
    lines = text.count("\n")
    if lines:
        total += sum(1 for line in text.split("\n")[1:] if line and not line.isspace())
    return max(total, 1)
