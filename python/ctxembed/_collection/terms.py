"""Terms: what the index of words holds of a text, and what a query looks for.

A word is a run of letters, digits and their combining marks, compared without case in the compatibility form of Unicode
(NFKC). Scripts that put no spaces between words are cut into pairs of characters, which overlap: ``図書館`` has the
pairs ``図書`` and ``書館``. Single characters of these scripts are indexed too, for queries of one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from operator import add
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["TERMS_VERSION", "index_terms", "query_terms"]

TERMS_VERSION: Final = 1
"""Of the terms: an index with terms of another version is built anew."""

_LONGEST: Final = 200
"""Characters of a word. A longer one is cut into words of this length."""

_SPACELESS: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul, whose words carry particles
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x303B),  # marks of iteration, and numerals
    (0x3041, 0x318F),  # Hiragana, Katakana, Bopomofo, Hangul
    (0x31A0, 0x31BF),  # Bopomofo
    (0x31F0, 0x31FF),  # Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA960, 0xA97F),  # Hangul
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xAC00, 0xD7FF),  # Hangul
    (0xF900, 0xFAFF),  # Han
    (0xFF66, 0xFFDC),  # Katakana and Hangul of half width
    (0x1AFF0, 0x1B16F),  # Hiragana and Katakana
    (0x20000, 0x3347F),  # Han
)
"""Code points, first and last, of scripts whose letters are paired."""

_MARKS: Final = (0x0300, 0x1EFFF)
"""Code points, first and last, among which are all combining marks but the selectors of variants."""

_ascii_words: Final = re.compile(rf"[a-z0-9]{{1,{_LONGEST}}}").findall

_words_without_marks: Final = re.compile(r"[^\W_]+").findall

_INVISIBLE: Final = re.compile("[\u00ad\u034f\u180b-\u180f\u200c\u200d\u2060\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]")
"""Characters inside words that are not seen: soft hyphens, joiners, selectors of variants."""


def index_terms(text: str) -> str:
    """Return the terms of a text, with a space between them."""
    if text.isascii():
        return " ".join(_ascii_words(text.lower()))
    terms: list[str] = []
    for word, letters in _words(text):
        if letters:
            terms += letters
            terms += map(add, letters, letters[1:])
        else:
            terms.append(word)
    return " ".join(terms)


def query_terms(text: str) -> list[str]:
    """Return the distinct terms that a text looks for, in order of appearance."""
    if text.isascii():
        return list(dict.fromkeys(_ascii_words(text.lower())))
    terms: list[str] = []
    for word, letters in _words(text):
        terms += map(add, letters, letters[1:]) if len(letters) > 1 else [word]
    return list(dict.fromkeys(terms))


def _words(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each word with nothing, and each run of a script without spaces with its letters, their marks included."""
    patterns = _patterns()
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    marked, has_runs = patterns.mark(text), patterns.letter(text)
    find = patterns.words_and_runs if marked or has_runs else _words_without_marks
    for word in find(text):
        if has_runs and patterns.is_run(word):
            yield word, patterns.letters(word) if marked else word
        elif len(word) <= _LONGEST:
            yield word, ()
        else:
            yield from ((word[first : first + _LONGEST], ()) for first in range(0, len(word), _LONGEST))


class _Patterns(NamedTuple):
    words_and_runs: Callable[[str], list[str]]
    letter: Callable[[str], object]
    is_run: Callable[[str], object]
    letters: Callable[[str], list[str]]
    mark: Callable[[str], object]


@cache
def _patterns() -> _Patterns:
    mark = _class([_MARKS], "M")
    letter = _class(_SPACELESS, "L", "Nl")
    run = f"[{letter}][{letter}{mark}]*"
    word = rf"[^\W_{letter}]+(?:[{mark}]+[^\W_{letter}]*)*"
    any_letter = re.compile(f"[{letter}]")
    return _Patterns(
        re.compile(f"{run}|{word}").findall,
        any_letter.search,
        any_letter.match,
        re.compile(f"[{letter}][{mark}]*").findall,
        re.compile(f"[{mark}]").search,
    )


def _class(spans: Iterable[tuple[int, int]], *categories: str) -> str:
    """Return the ranges of a regular expression's class: the code points of some categories in spans."""
    ranges: list[list[int]] = []
    for first, last in spans:
        for point in range(first, last + 1):
            if unicodedata.category(chr(point)).startswith(categories):
                if ranges and ranges[-1][1] == point - 1:
                    ranges[-1][1] = point
                else:
                    ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
