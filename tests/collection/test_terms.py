"""Terms: words without case, and pairs of characters in scripts without spaces."""

from __future__ import annotations

import random
import unicodedata

import pytest
from ctxembed._collection.terms import index_terms, query_terms

CASES = [
    ("id77 Id770 foo_bar", "id77 id770 foo bar", None),
    ("don't C++ 3.14", "don t c 3 14", None),
    ("Straße STRASSE ﬁne x²", "strasse strasse fine x2", "strasse fine x2"),
    ("e\u0301t\u00e9 ÉTÉ", "été été", "été"),
    (
        "co\u00adop \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "coop \u0645\u06cc\u062e\u0648\u0627\u0647\u0645",
        None,
    ),
    ("हिन्दी में", "हिन्दी में", None),
    ("Ελληνικά ΟΔΟΣ Москва", "ελληνικά οδοσ москва", None),
    ("猫", "猫", None),
    ("図書館。猫", "図 書 館 図書 書館 猫", "図書 書館 猫"),
    (
        "コンピュータ・ｶﾞﾗｽ",
        "コ ン ピ ュ ー タ コン ンピ ピュ ュー ータ ガ ラ ス ガラ ラス",
        "コン ンピ ピュ ュー ータ ガラ ラス",
    ),
    ("第3章Python入門", "第 3 章 python 入 門 入門", "第 3 章 python 入門"),
    ("葛\U000e0100飾", "葛 飾 葛飾", "葛飾"),
    ("𠮷野", "𠮷 野 𠮷野", "𠮷野"),
    ("서울에서", "서 울 에 서 서울 울에 에서", "서울 울에 에서"),
    ("บ้าน ๑๒", "บ้ า น บ้า าน ๑๒", "บ้า าน ๑๒"),
    ("ភាសា", "ភា សា ភាសា", "ភាសា"),
    ("", "", None),
    (" \t\n", "", None),
    ('( : " * ? 😀 \ud800', "", None),
]


@pytest.mark.parametrize(("text", "indexed", "queried"), CASES, ids=[ascii(text) for text, *_ in CASES])
def test_terms(text, indexed, queried):
    assert index_terms(text) == indexed
    assert query_terms(text) == list(dict.fromkeys((indexed if queried is None else queried).split()))


def test_words_are_cut_at_a_length():
    assert index_terms("a" * 450) == " ".join(["a" * 200, "a" * 200, "a" * 50])
    assert index_terms("é" * 450) == " ".join(["é" * 200, "é" * 200, "é" * 50])
    assert query_terms("a" * 450) == ["a" * 200, "a" * 50]


def test_the_terms_of_a_query_are_terms_of_the_text_and_no_term_has_a_space():
    random.seed(16)
    pool = [*map(chr, range(0x20, 0x3000, 3)), *map(chr, range(0x3040, 0x3100)), *"図書館猫서울ABCé \u0301\u200c。"]
    for _ in range(3000):
        text = "".join(random.choices(pool, k=random.randint(0, 40)))
        terms = index_terms(text).split(" ")
        assert set(query_terms(text)) <= set(terms), text
        assert all(term and not any(map(str.isspace, term)) for term in terms) or terms == [""]


def test_ascii_and_other_texts_have_the_same_words():
    text = "Some words, 12 of them; and_more."
    assert index_terms(text + " é") == index_terms(text) + " é"
    assert all(unicodedata.is_normalized("NFKC", term) for term in query_terms("ﬃ Å ﷺ ㌕"))
