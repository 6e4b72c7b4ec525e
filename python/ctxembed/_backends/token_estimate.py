"""A token count without a vocabulary."""

from __future__ import annotations

__all__ = ["estimate_tokens"]


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a chunk.

    Parameters
    ----------
    text : str
        One chunk.

    Returns
    -------
    int
        At least 1, and at most the number of UTF-8 bytes.

    Notes
    -----
    Byte-level BPE spends about one token on each of these: a common English word of up to eight letters with the
    space before it, a punctuation mark next to a word, a line break with its indentation, five bytes of another
    script. The estimate therefore splits the text at whitespace. A piece costs ``ceil(letters / 8)`` if it is all
    ASCII letters, ``ceil(characters / 4)`` if it is other ASCII, else ``ceil(bytes / 5)``. Each line after the first
    costs one more unless it is blank. The estimate is low rather than high: a client that counts exactly fills
    requests to the limit, and a server that overestimates would reject requests that the API accepts.

    Examples
    --------
    >>> estimate_tokens("The quick brown fox")
    4
    >>> estimate_tokens("internationalization")
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
    if "\n" in text:
        total += sum(1 for line in text.split("\n")[1:] if line and not line.isspace())
    return max(total, 1)
