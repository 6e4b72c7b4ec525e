"""Memory of decoding: the matrix, and nothing else that grows with the body."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import short_memory

PROGRAM = """
import base64, ctypes, gc
from pathlib import Path
import numpy as np
import ctxembed

text = base64.b64encode(np.arange(1024, dtype=np.uint8).tobytes()).decode()
chunks = ",".join('{"object":"embedding","index":%d,"embedding":"%s"}' % (c, text) for c in range(32))
document = '{"object":"list","index":%d,"data":[' + chunks.replace("%", "%%") + "]}"
body = ('{"object":"list","data":[' + ",".join(document % d for d in range(DOCUMENTS)) + '],"model":"m"}').encode()
shape = [32] * DOCUMENTS
out = np.ones((32 * DOCUMENTS, 1024), np.int8)
small = b'{"data":[{"index":0,"data":[{"index":0,"embedding":"AQID"}]}]}'
ctxembed.decode_response(small), ctxembed.ResponseDecoder().feed(small)
def kib(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])


gc.collect()
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
before = kib("VmRSS")
CALL
print(kib("VmHWM") - before)
"""
DOCUMENTS = 1024  # 45 MB of body, 32 MB of vectors
VECTORS = 32 << 10  # KiB
STREAM = """
decoder = ctxembed.ResponseDecoder(shape=shape, dimensions=1024)
view = memoryview(body)
for start in range(0, len(body), 65536):
    decoder.feed(bytes(view[start : start + 65536]))
emb = decoder.finish()
"""


@pytest.mark.parametrize(
    ("call", "most"),
    [
        ("emb = ctxembed.decode_response(body, shape=shape, out=out)", 0),
        ("emb = ctxembed.decode_response(body, shape=shape)", VECTORS),
        ("emb = ctxembed.decode_response(body)", VECTORS),
        (STREAM, VECTORS),
    ],
    ids=["out given", "shape given", "nothing given", "in parts"],
)
def test_decoding_allocates_the_matrix_and_nothing_else_that_grows_with_the_body(call, most):
    program = PROGRAM.replace("DOCUMENTS", str(DOCUMENTS)).replace("CALL", call)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # The allocators of Rust and Python keep up to 2 MB in reserve, regardless of the size of the body.
    assert most <= int(result.stdout) <= most + 2048


BODIES = """
import base64
text = base64.b64encode(bytes(range(256))).decode()
chunks = ['{"index":%d,"embedding":"%s"}' % (c, text) for c in range(160_000)]  # a matrix too large for the heap
in_order = ('{"data":[{"index":0,"data":[' + ",".join(chunks) + "]}]}").encode()
backwards = ('{"data":[{"index":0,"data":[' + ",".join(reversed(chunks)) + "]}]}").encode()

def fed(body):
    decoder = ctxembed.ResponseDecoder()
    for start in range(0, len(body), 65_536):
        decoder.feed(body[start : start + 65_536])
    return decoder.finish()
"""
CALLS = {
    "decode_response": (BODIES, "ctxembed.decode_response(in_order)"),
    "decode_response, backwards": (BODIES, "ctxembed.decode_response(backwards)"),
    "ResponseDecoder": (BODIES, "fed(in_order)"),
    "ResponseDecoder, backwards": (BODIES, "fed(backwards)"),
    "shape": ("shape = np.ones(20_000_000, np.int64)", "ctxembed.ResponseDecoder(shape=shape)"),
    "encode_base64": ("vectors = np.ones((200_000, 300), np.int8)", "ctxembed.encode_base64(vectors)"),
    "encode_base64 of one vector": ("vector = np.ones(60_000_000, np.int8)", "ctxembed.encode_base64(vector)"),
    "decode_base64": ('texts = ["A" * 400] * 300_000', "ctxembed.decode_base64(iter(texts))"),
    "encode_request": ('documents = [["heron"] * 2_000_000]', '_core.encode_request(documents, b"}")'),
    "prepare_request": ('documents = [["heron"] * 2_000_000]', '_core.prepare_request(documents, b"}", None)'),
}


@pytest.mark.parametrize("call", CALLS)
def test_short_memory_is_a_memory_error(call):
    outcomes = short_memory.outcomes(*CALLS[call])
    assert outcomes[0] == "MemoryError"


def test_a_stream_that_ran_out_of_memory_raises_the_error_again():
    again = """
def fails_again(decoder, part):
    failed = 0
    for _ in range(3):
        try:
            decoder.feed(part)
        except MemoryError:
            failed += 1
    if failed < 3:
        raise ValueError(failed)
    decoder.finish()
"""
    setup = BODIES + again + "decoder = ctxembed.ResponseDecoder()"
    assert set(short_memory.outcomes(setup, "fails_again(decoder, in_order)", [0, 3])) == {"MemoryError"}
