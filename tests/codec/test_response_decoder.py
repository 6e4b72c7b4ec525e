"""ResponseDecoder gives the results and errors of decode_response, however the body is split."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import ctxembed
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import chunk_vectors, response, to_json

SHAPE = [3, 1, 2]
VECTORS = chunk_vectors(SHAPE, 50)
USAGE = {"prompt_tokens": 3, "total_tokens": 4, "cost": {"total_cost": 1e-7, "currency": "USD"}}
BODY = to_json(response(SHAPE, VECTORS, usage=USAGE))


def decode_in_parts(body: bytes, ends: list[int], **keywords):
    decoder = ctxembed.ResponseDecoder(**keywords)
    start = 0
    for end in [*sorted(ends), len(body)]:
        decoder.feed(body[start:end])
        start = max(start, end)
    return decoder.finish()


def outcome(decode, *arguments, **keywords):
    """Return the result or the error in a form that can be compared."""
    try:
        emb = decode(*arguments, **keywords)
    except ctxembed.DecodeError as error:
        return vars(error)
    return (emb.vectors.tolist(), emb.offsets.tolist(), emb.model, emb.dimensions, emb.usage, emb.encoding_format)


def test_a_body_in_two_parts_decodes_as_a_whole():
    expected = outcome(ctxembed.decode_response, BODY, shape=SHAPE)
    for end in range(len(BODY) + 1):
        assert outcome(decode_in_parts, BODY, [end], shape=SHAPE) == expected


@pytest.mark.parametrize("known", [{}, {"shape": SHAPE}, {"shape": SHAPE, "dimensions": 50}, {"dimensions": 50}])
def test_a_body_in_single_bytes_decodes_as_a_whole(known):
    expected = outcome(ctxembed.decode_response, BODY, **known)
    assert outcome(decode_in_parts, BODY, [*range(len(BODY))], **known) == expected


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(0, len(BODY) - 1),
    byte=st.integers(0, 255),
    ends=st.lists(st.integers(0, len(BODY)), max_size=8),
    cut=st.one_of(st.none(), st.integers(0, len(BODY))),
)
def test_a_damaged_body_raises_the_same_error_in_parts(position, byte, ends, cut):
    damaged = bytearray(BODY)
    damaged[position] = byte
    body = bytes(damaged[:cut])
    ends = [min(end, len(body)) for end in ends]
    assert outcome(decode_in_parts, body, ends, shape=SHAPE) == outcome(ctxembed.decode_response, body, shape=SHAPE)


def test_shuffled_documents_and_binary_rows_decode():
    bits = chunk_vectors(SHAPE, 128).view(np.uint8)
    tree = response(SHAPE, bits)
    shuffled = copy.deepcopy(tree)
    shuffled["data"].reverse()
    emb = decode_in_parts(to_json(shuffled), [700], shape=SHAPE, encoding_format="base64_binary")
    np.testing.assert_array_equal(emb.vectors, bits)
    assert emb.vectors.dtype == np.uint8


def test_feed_raises_at_the_first_error_and_again_at_each_later_call():
    decoder = ctxembed.ResponseDecoder()
    decoder.feed(b'{"data": [')
    with pytest.raises(ctxembed.DecodeError) as first:
        decoder.feed(b"oops")
    for again in (lambda: decoder.feed(b"]}"), decoder.finish):
        with pytest.raises(ctxembed.DecodeError) as later:
            again()
        assert vars(later.value) == vars(first.value)


def test_a_finished_decoder_cannot_be_used_again():
    decoder = ctxembed.ResponseDecoder(dimensions=8)
    decoder.feed(b'{"data":[]}')
    assert decoder.finish().vectors.shape == (0, 8)
    for call in (decoder.finish, lambda: decoder.feed(b" ")):
        with pytest.raises(ValueError, match="new one for each response"):
            call()


def test_finish_reports_a_truncated_body():
    decoder = ctxembed.ResponseDecoder()
    decoder.feed(BODY[:-1])
    with pytest.raises(ctxembed.DecodeError) as caught:
        decoder.finish()
    assert (caught.value.kind, caught.value.offset) == ("truncated", len(BODY) - 1)


def test_skipped_strings_are_not_stored():
    """The value of an unknown key may be larger than memory."""
    decoder = ctxembed.ResponseDecoder()
    decoder.feed(b'{"x": "')
    part = b"y" * (1 << 20)
    before = resident_kib()
    for _ in range(200):
        decoder.feed(part)
    assert resident_kib() - before < 16 * 1024
    decoder.feed(b'", "data": []}')
    assert len(decoder.finish()) == 0


def resident_kib() -> int:
    from pathlib import Path

    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


@pytest.mark.parametrize("body", ["text", None, 3])
def test_feed_rejects_anything_but_bytes(body):
    with pytest.raises(TypeError, match="bytes"):
        ctxembed.ResponseDecoder().feed(body)


def test_decoders_on_several_threads_are_independent():
    expected = outcome(ctxembed.decode_response, BODY, shape=SHAPE)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda i: outcome(decode_in_parts, BODY, [i % 400, 500], shape=SHAPE), range(200)):
            assert got == expected
