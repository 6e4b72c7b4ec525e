"""A stand-in for the model's token count: a rule of thumb, in one function that an exact counter can replace."""

from __future__ import annotations

__all__ = ["count_tokens"]


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
