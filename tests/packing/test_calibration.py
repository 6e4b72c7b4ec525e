"""The estimate learns from what the API has counted: fuller requests, none of them over a limit."""

from __future__ import annotations

import re
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import Limits
from ctxembed._planning.calibration import CLASSES, TokenCalibration, classes_of
from ctxembed._planning.prepare import prepare

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = ("pep_en", "react_ko", "rustbook_en", "rustbook_zh")


def full(share: float = 1.0) -> list[float]:
    """A full request's estimate, of the first class and the last."""
    return [120_000 * share, 0, 0, 120_000 * (1 - share)]


def taught(ratio: float, requests: int = 10, noise: float = 0.0) -> TokenCalibration:
    calibration = TokenCalibration()
    rng = np.random.default_rng(1)
    for _ in range(requests):
        calibration.observe(full(), round(120_000 * (ratio + rng.normal(0, noise))))
    return calibration


def test_nothing_learned_leaves_the_estimate_as_it_is():
    assert TokenCalibration().factors.tolist() == [1.0] * CLASSES


def test_responses_bring_the_factor_near_what_was_counted_and_not_below():
    factors = [taught(0.88, requests).factors[0] for requests in (1, 3, 10, 30)]
    assert factors == sorted(factors, reverse=True)
    assert 0.88 < factors[-1] < 0.91


def test_other_classes_keep_their_margin():
    assert taught(0.85, 20).factors[1:].tolist() == [1.0] * (CLASSES - 1)


def test_two_classes_in_one_request_are_told_apart():
    calibration = TokenCalibration()
    for share in (0.9, 0.2, 0.5, 0.7, 0.1) * 4:
        english, chinese = full(share)[0], full(share)[3]
        calibration.observe(full(share), round(0.87 * english + 0.95 * chinese))
    assert 0.87 < calibration.factors[0] < 0.91
    assert 0.95 < calibration.factors[3] < 0.99


def test_the_margin_follows_the_noise():
    calm, noisy = (taught(0.88, 30, noise).factors[0] for noise in (0.002, 0.02))
    assert noisy > calm + 0.03


def test_a_short_request_teaches_less_than_a_full_one():
    short, long = TokenCalibration(), TokenCalibration()
    short.observe([400, 0, 0, 0], 340)
    long.observe(full(), 102_000)
    assert long.factors[0] < short.factors[0]


def test_a_refusal_makes_the_next_requests_less_full():
    calibration = taught(0.80, 30)
    before = calibration.factors[0]
    calibration.refuse(full(), 120_000)
    assert calibration.factors[0] > before + 0.05


def test_a_change_of_text_is_followed():
    calibration = taught(0.80, 30)
    for _ in range(30):
        calibration.observe(full(), 112_000)
    assert calibration.factors[0] > 112 / 120


def test_what_is_no_count_teaches_nothing():
    calibration = TokenCalibration()
    calibration.observe((), 100)
    calibration.observe([0.0] * CLASSES, 100)
    calibration.observe(full(), 0)
    calibration.refuse((), 100)
    assert calibration.factors.tolist() == [1.0] * CLASSES


def test_counts_beyond_belief_are_bounded():
    assert taught(0.01, 200).factors[0] >= 0.6
    assert taught(50.0, 200).factors[0] <= 2.0


def test_classes_are_told_by_bytes_a_character():
    characters = np.array([100, 100, 100, 100, 0])
    assert classes_of(characters, np.array([100, 120, 180, 290, 0])).tolist() == [0, 1, 2, 3, 0]


def test_a_counter_leaves_nothing_to_learn():
    prepared = prepare([["a"], ["b"]], token_counter=lambda texts: [1] * len(texts), calibration=TokenCalibration())
    assert prepared.estimate_of(np.array([0, 1])) == ()


def test_learned_counts_stay_between_the_bounds():
    calibration = taught(0.6, 200)
    prepared = prepare([["1 2 3 4 5 6 7 8 9"]], calibration=calibration)
    assert prepared.tokens[0] >= 9  # each digit is a token


@pytest.fixture(scope="module")
def exactly():
    """Count as the API does; skip where the vocabulary is absent."""
    tokenizers = pytest.importorskip("tokenizers")
    path = DATA / "tokenizer" / "tokenizer.json"
    if not path.exists():
        pytest.skip(f"{path} is absent: nothing to count with")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    known: dict[str, int] = {}

    def count(texts):
        new = list(set(texts) - known.keys())
        for text, encoding in zip(new, tokenizer.encode_batch(new, add_special_tokens=False), strict=True):
            known[text] = len(encoding)
        return [known[text] for text in texts]

    return count


def documents_of(folder: str) -> list[list[str]]:
    """Return the files of a folder, paragraphs as chunks, six times over in random order."""
    texts = [path.read_text() for path in sorted((DATA / "corpus" / folder).iterdir())]
    documents = [[part for part in re.split(r"\n\s*\n", text) if part.strip()] for text in texts]
    documents = [document for document in documents if document] * 6
    return [documents[i] for i in np.random.default_rng(0).permutation(len(documents))]


@pytest.mark.parametrize("folders", [*[(folder,) for folder in FOLDERS], FOLDERS], ids="+".join)
def test_no_request_is_over_the_limit_cold_or_learning(exactly, folders):
    documents = [document for folder in folders for document in documents_of(folder)]
    exact = prepare(documents, token_counter=exactly)
    calibration = TokenCalibration()

    def heaviest(prepared, first=0):
        return max(int(exact.tokens[first + request].sum()) for request in prepared.requests)

    cold = prepare(documents, calibration=calibration)
    assert heaviest(cold) <= 120_000
    for first in range(0, len(documents), 100):  # as they come in a stream, each answer learned from
        prepared = prepare(documents[first : first + 100], calibration=calibration)
        assert heaviest(prepared, first) <= 120_000
        for request in prepared.requests:
            calibration.observe(prepared.estimate_of(request), int(exact.tokens[first + request].sum()))
    learned = prepare(documents, calibration=calibration)
    assert heaviest(learned) <= 120_000
    assert len(exact.requests) <= len(learned.requests) <= len(cold.requests)
    assert len(learned.requests) <= 1.08 * len(exact.requests)
    assert len(cold.requests) <= 1.1 * len(exact.requests)


def test_a_client_learns_from_its_responses(server):
    documents = [[f"word{i} and some more words of it. " * 200] for i in range(60)]
    with ctxembed.Client("key", base_url=server.base_url) as client:
        before = client._state.calibration.factors  # what no answer shows
        client.embed(documents, dimensions=128)
        after = client._state.calibration.factors
        twin = client.with_options(max_retries=0)
        assert twin._state.calibration is client._state.calibration
    assert before.tolist() == [1.0] * CLASSES
    assert after is not before


def test_a_request_that_is_refused_as_too_large_is_halved_and_nothing_is_paid_twice(fresh_server):
    documents = [[f"word{i} and some more words of it. " * 100] for i in range(40)]
    # This server's limit is lower than the client knows.
    strict, lenient = fresh_server(limits=Limits(tokens=20_000)), fresh_server()
    with ctxembed.Client("key", base_url=strict.base_url) as client:
        halved = client.embed(documents, dimensions=128)
        assert client._state.calibration.factors[0] > 1.0  # what no answer shows
    with ctxembed.Client("key", base_url=lenient.base_url) as client:
        whole = client.embed(documents, dimensions=128)
    assert not halved.failures
    assert np.array_equal(halved.vectors, whole.vectors)
    assert (whole.usage.requests, halved.usage.requests) == (1, 2)
    assert halved.usage.total_tokens == whole.usage.total_tokens
