"""TokenCalibration: estimates learn from reported token counts, so that requests are fuller and within the limits."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest
from ctxembed import Limits
from ctxembed._planning.calibration import CLASSES, TokenCalibration, classes_of
from ctxembed._planning.prepare import prepare

from tests.samples import FOLDERS, VOCABULARIES, corpus, paragraphs, sample_texts, sample_token_counts


def full(share: float = 1.0) -> list[float]:
    """Return the estimate of a full request, split between the first class and the last."""
    return [120_000 * share, 0, 0, 120_000 * (1 - share)]


def calibrated(ratio: float, requests: int = 10, noise: float = 0.0) -> TokenCalibration:
    """Return a calibration after full requests whose counts were ``ratio`` times their estimate."""
    calibration = TokenCalibration()
    rng = np.random.default_rng(1)
    for _ in range(requests):
        calibration.observe(full(), round(120_000 * (ratio + rng.normal(0, noise))))
    return calibration


def test_a_new_calibration_does_not_change_estimates():
    assert TokenCalibration().factors.tolist() == [1.0] * CLASSES


def test_factors_approach_the_observed_ratio_from_above():
    factors = [calibrated(0.88, requests).factors[0] for requests in (1, 3, 10, 30)]
    assert factors == sorted(factors, reverse=True)
    assert 0.88 < factors[-1] < 0.91


def test_classes_without_observations_keep_their_margin():
    assert calibrated(0.85, 20).factors[1:].tolist() == [1.0] * (CLASSES - 1)


def test_two_classes_in_one_request_are_separated():
    calibration = TokenCalibration()
    for share in (0.9, 0.2, 0.5, 0.7, 0.1) * 4:
        english, chinese = full(share)[0], full(share)[3]
        calibration.observe(full(share), round(0.87 * english + 0.95 * chinese))
    assert 0.87 < calibration.factors[0] < 0.91
    assert 0.95 < calibration.factors[3] < 0.99


def test_noisy_counts_widen_the_margin():
    calm, noisy = (calibrated(0.88, 30, noise).factors[0] for noise in (0.002, 0.02))
    assert noisy > calm + 0.03


def test_a_short_request_changes_the_factor_less_than_a_full_one():
    short, long = TokenCalibration(), TokenCalibration()
    short.observe([400, 0, 0, 0], 340)
    long.observe(full(), 102_000)
    assert long.factors[0] < short.factors[0]


def test_a_rejected_request_raises_the_factor():
    calibration = calibrated(0.80, 30)
    before = calibration.factors[0]
    calibration.refuse(full(), 120_000)
    assert calibration.factors[0] > before + 0.05


def test_factors_follow_a_change_of_text():
    calibration = calibrated(0.80, 30)
    for _ in range(30):
        calibration.observe(full(), 112_000)
    assert calibration.factors[0] > 112 / 120


def test_empty_estimates_and_zero_counts_are_ignored():
    calibration = TokenCalibration()
    calibration.observe((), 100)
    calibration.observe([0.0] * CLASSES, 100)
    calibration.observe(full(), 0)
    calibration.refuse((), 100)
    assert calibration.factors.tolist() == [1.0] * CLASSES


def test_factors_are_bounded():
    assert calibrated(0.01, 200).factors[0] >= 0.6
    assert calibrated(50.0, 200).factors[0] <= 2.0


def test_classes_depend_on_bytes_for_each_character():
    characters = np.array([100, 100, 100, 100, 0])
    assert classes_of(characters, np.array([100, 120, 180, 290, 0])).tolist() == [0, 1, 2, 3, 0]


def test_exact_counts_are_not_calibrated():
    prepared = prepare([["a"], ["b"]], token_counter=lambda texts: [1] * len(texts), calibration=TokenCalibration())
    assert prepared.estimate_of(np.array([0, 1])) == ()


def test_calibrated_counts_stay_within_the_bounds():
    calibration = calibrated(0.6, 200)
    prepared = prepare([["1 2 3 4 5 6 7 8 9"]], calibration=calibration)
    assert prepared.tokens[0] >= 9  # each digit is a token


def sample_documents(kinds: tuple[str, ...]) -> list[list[str]]:
    """Return documents of 10 to 200 random paragraphs of the sample texts."""
    rng = np.random.default_rng(0)
    parts = np.array([part for kind in kinds for part in paragraphs(sample_texts()[kind])], dtype=object)
    return [rng.choice(parts, rng.integers(10, 200)).tolist() for _ in range(1500)]


def corpus_documents(folders: tuple[str, ...]) -> list[list[str]]:
    """Return the files of each folder as documents of paragraphs, six times each, in random order."""
    found = []
    for folder in folders:
        documents = [parts for text in corpus(folder) if (parts := paragraphs(text))] * 6
        found += [documents[i] for i in np.random.default_rng(0).permutation(len(documents))]
    return found


@pytest.fixture(scope="module")
def count_with_tokenizers():
    """Count tokens with the tokenizers package; each text once."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(VOCABULARIES["full vocabulary"]))
    known: dict[str, int] = {}

    def count(texts):
        new = list(set(texts) - known.keys())
        for text, encoding in zip(new, tokenizer.encode_batch(new, add_special_tokens=False), strict=True):
            known[text] = len(encoding)
        return [known[text] for text in texts]

    return count


def check_requests(documents, count_exactly):
    """Assert that no request exceeds the limit before, while and after learning, and that few requests are added."""
    exact = prepare(documents, token_counter=count_exactly)
    calibration = TokenCalibration()

    def heaviest(prepared, first=0):
        return max(int(exact.tokens[first + request].sum()) for request in prepared.requests)

    before = prepare(documents, calibration=calibration)
    assert heaviest(before) <= 120_000
    for first in range(0, len(documents), 100):  # as a stream does, which learns from each response
        prepared = prepare(documents[first : first + 100], calibration=calibration)
        assert heaviest(prepared, first) <= 120_000
        for request in prepared.requests:
            calibration.observe(prepared.estimate_of(request), int(exact.tokens[first + request].sum()))
    after = prepare(documents, calibration=calibration)
    assert heaviest(after) <= 120_000
    assert len(exact.requests) <= len(after.requests) <= len(before.requests)
    assert len(after.requests) <= 1.08 * len(exact.requests)
    assert len(before.requests) <= 1.1 * len(exact.requests)


@pytest.mark.parametrize(
    "kinds",
    [("technical",), ("chinese",), ("english", "technical", "chinese", "korean")],
    ids="+".join,
)
def test_requests_of_sample_texts_stay_within_the_limit(kinds):
    check_requests(sample_documents(kinds), lambda texts: [sample_token_counts()[text] for text in texts])


@pytest.mark.skipif(not FOLDERS, reason="the corpora are not in ../shared/data")
@pytest.mark.parametrize("folders", [*[(folder,) for folder in FOLDERS], FOLDERS], ids="+".join)
def test_requests_of_a_corpus_stay_within_the_limit(count_with_tokenizers, folders):
    check_requests(corpus_documents(folders), count_with_tokenizers)


def test_a_client_calibrates_from_its_responses(server):
    documents = [[f"word{i} and some more words of it. " * 200] for i in range(60)]
    with ctxembed.Client("key", base_url=server.base_url) as client:
        before = client._state.calibrations.of("pplx-embed-context-v1-0.6b").factors  # not visible in a response
        client.embed(documents, dimensions=128)
        after = client._state.calibrations.of("pplx-embed-context-v1-0.6b").factors
        twin = client.with_options(max_retries=0)
        assert twin._state.calibrations is client._state.calibrations
    assert before.tolist() == [1.0] * CLASSES
    assert after is not before


def test_a_request_rejected_as_too_large_is_split_and_nothing_is_paid_twice(fresh_server):
    documents = [[f"word{i} and some more words of it. " * 100] for i in range(40)]
    # The limit of this server is lower than the client's.
    strict, lenient = fresh_server(limits=Limits(tokens=20_000)), fresh_server()
    with ctxembed.Client("key", base_url=strict.base_url) as client:
        halved = client.embed(documents, dimensions=128)
        assert client._state.calibrations.of("pplx-embed-context-v1-0.6b").factors[0] > 1.0  # not visible in a response
    with ctxembed.Client("key", base_url=lenient.base_url) as client:
        whole = client.embed(documents, dimensions=128)
    assert not halved.failures
    assert np.array_equal(halved.vectors, whole.vectors)
    assert (whole.usage.requests, halved.usage.requests) == (1, 2)
    assert halved.usage.total_tokens == whole.usage.total_tokens
