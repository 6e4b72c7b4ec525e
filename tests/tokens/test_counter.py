"""TokenCounter: arguments, pickling, threads, forks, memory, and its use by a plan and a client."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctxembed
import numpy as np
import pytest

from tests import short_memory
from tests.samples import FOLDERS, corpus, paragraphs, sample_texts
from tests.threads import releases_the_interpreter


@pytest.fixture
def heron(tiny, write_tokenizer):
    return ctxembed.TokenCounter.from_file(write_tokenizer(tiny))


def test_merges_apply_in_order_of_rank(heron):
    assert heron.backend == "native"
    assert heron.reason is None
    assert heron.count("heron") == 2  # hero, n
    assert heron.count(" heron") == 3  # space, hero, n: (h, e) and (he, ro) come before (space, he)
    assert heron.count("") == 0


def test_an_added_token_counts_as_one_and_the_longest_match_wins(heron):
    assert heron.count("he<end>ro<endless>[x]") == 5
    assert heron.count("<end") == 4
    assert heron.count("<endl<end>") == 6


def test_count_batch_returns_int64_in_input_order(heron):
    counts = heron.count_batch(["heron", "", "he"])
    assert counts.dtype == np.int64
    assert counts.tolist() == [2, 0, 1]
    assert heron.count_batch(()).shape == (0,)
    assert heron.count_batch(text for text in ["he"]).tolist() == [1]
    assert heron(["he"]).tolist() == [1]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("text", TypeError, r"texts must be a list of str, got one str: pass \[text\]"),
        (b"text", TypeError, "texts must be a list of str, got bytes"),
        ({"a": 1}, TypeError, "texts must be a list of str, got dict"),
        (["a", 3], TypeError, r"texts\[1\] must be a str, got int"),
        (7, TypeError, "texts must be a list of str, got int"),
        (["ok", "a\ud800"], ValueError, r"texts\[1\] has a lone surrogate at character 1"),
    ],
)
@pytest.mark.parametrize("change", [None, "lstrip"], ids=["native", "tokenizers"])
def test_count_batch_rejects_anything_but_a_list_of_str(tiny, write_tokenizer, change, texts, error, message):
    if change:
        pytest.importorskip("tokenizers")
        tiny["added_tokens"][0][change] = True
    counter = ctxembed.TokenCounter.from_file(write_tokenizer(tiny))
    with pytest.raises(error, match=message):
        counter.count_batch(texts)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"text", TypeError, "text must be a str, got bytes"),
        (None, TypeError, "text must be a str, got NoneType"),
        ("a\udfff", ValueError, "lone surrogate at character 1"),
    ],
)
@pytest.mark.parametrize("change", [None, "lstrip"], ids=["native", "tokenizers"])
def test_count_rejects_anything_but_a_str(tiny, write_tokenizer, change, text, error, message):
    if change:
        pytest.importorskip("tokenizers")
        tiny["added_tokens"][0][change] = True
    counter = ctxembed.TokenCounter.from_file(write_tokenizer(tiny))
    with pytest.raises(error, match=message):
        counter.count(text)


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_threads_must_be_a_positive_int(heron, threads, error):
    with pytest.raises(error, match="threads must be"):
        heron.count_batch(["a"], threads=threads)


def test_the_constructor_points_to_from_file():
    with pytest.raises(TypeError, match="from_file"):
        ctxembed.TokenCounter()


def test_a_missing_file_raises_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        ctxembed.TokenCounter.from_file(tmp_path / "none.json")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        ctxembed.TokenCounter.from_file(tmp_path)


def test_from_pretrained_downloads_the_file_from_the_hub(tiny, write_tokenizer, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    path, calls = str(write_tokenizer(tiny)), []

    def download(*args, **options):
        calls.append((args, options))
        return path

    monkeypatch.setattr(hub, "hf_hub_download", download)
    counter = ctxembed.TokenCounter.from_pretrained("owner/name", revision="v1")
    assert counter.count("heron") == 2
    assert calls == [(("owner/name", "tokenizer.json"), {"revision": "v1", "token": None})]


def test_from_pretrained_names_the_extra_when_the_hub_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ctxembed\[tokens\]'"):
        ctxembed.TokenCounter.from_pretrained("owner/name")


def test_a_counter_unpickles_only_while_its_file_is_unchanged(tiny, write_tokenizer):
    path = write_tokenizer(tiny)
    counter = ctxembed.TokenCounter.from_file(path)
    copy = pickle.loads(pickle.dumps(counter))
    assert copy.count("heron") == counter.count("heron")
    assert repr(copy) == repr(counter) == f"TokenCounter.from_file({str(path)!r})"
    pickled = pickle.dumps(counter)
    tiny["added_tokens"].pop()
    write_tokenizer(tiny)
    with pytest.raises(ValueError, match="checksums differ"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def many_texts() -> list[str]:
    """Return texts enough for several threads."""
    samples = [part for text in sample_texts().values() for part in [text, *paragraphs(text)]]
    return samples * 5 + [text for folder in FOLDERS if folder.startswith("rustbook") for text in corpus(folder)]


def test_the_number_of_threads_does_not_change_the_counts(counter):
    texts = many_texts()
    expected = counter.count_batch(texts, threads=1)
    for threads in (2, 3, 8, 1000):
        np.testing.assert_array_equal(counter.count_batch(texts, threads=threads), expected)
    np.testing.assert_array_equal([counter.count(text) for text in texts], expected)


def test_eight_threads_can_share_a_counter(counter):
    texts = many_texts()[:60]
    expected = counter.count_batch(texts).tolist()
    with ThreadPoolExecutor(8) as pool:
        for counts in pool.map(lambda _: counter.count_batch(texts).tolist(), range(16)):
            assert counts == expected
        assert list(pool.map(counter.count, texts)) == expected


def test_a_process_forked_while_other_threads_count_can_count(counter):
    texts = many_texts()[:20]
    expected = counter.count_batch(texts).tolist()
    done = threading.Event()

    def count_until_done():
        while not done.is_set():
            counter.count_batch(texts)

    workers = [threading.Thread(target=count_until_done) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(5):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.write(writer, b"ok" if counter.count_batch(texts, threads=2).tolist() == expected else b"no")
                finally:
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader, "rb") as pipe:
                assert pipe.read() == b"ok"
            os.waitpid(child, 0)
    finally:
        done.set()
        for worker in workers:
            worker.join()


def test_other_threads_run_while_a_text_is_counted(counter):
    text = "".join(sample_texts().values()) * 20
    assert releases_the_interpreter(lambda: counter.count(text))
    assert releases_the_interpreter(lambda: counter.count_batch([text], threads=1))


def test_a_plan_with_a_counter_is_exact(counter):
    documents = [["The heron stood in the reeds.", "It caught a fish."], ["\u4e2d\u6587"]]
    plan = ctxembed.plan(documents, token_counter=counter)
    assert plan.exact_tokens
    assert plan.tokens == plan.tokens_upper == counter.count_batch([*documents[0], *documents[1]]).sum() + 1
    assert "(counted)" in str(plan)


def test_a_client_accepts_a_counter(counter, server):
    with ctxembed.Client(api_key="any", base_url=server.base_url, token_counter=counter) as client:
        emb = client.embed([["The heron stood in the reeds.", "It caught a fish."]])
    assert emb.vectors.shape[0] == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_tables_and_caches_take_less_than_64_mb(vocabulary):
    code = f"""
import re, random, ctxembed
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
chooser = random.Random(1)
words = ["".join(chooser.choices("abcdefghijklmnop", k=chooser.randint(2, 60))) for _ in range(200_000)]
texts = [" ".join(words[i : i + 100]) for i in range(0, len(words), 100)]
long = "ab" * 500_000
before = resident()
counter = ctxembed.TokenCounter.from_file({str(vocabulary)!r})
loaded = peak() - before
for _ in range(3):
    counter.count_batch(texts, threads=4)
counter.count(long)
print(loaded, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded, after = map(float, done.stdout.split())
    assert loaded < 64
    assert after < 64


# Each call takes many seconds if nothing interrupts it.
LONG_CALLS = {
    "a text of words": "counter.count('heron ' * 60_000_000)",
    "a text of one word": "counter.count('ab' * 60_000_000)",
    "a text of marks": "counter.count('e\\u0301 ' * 40_000_000)",
    "a text like an added token": "counter.count('<' * 300_000_000)",
    "texts on other threads": "counter.count_batch(['heron', 'ab' * 30_000_000, 'ab' * 30_000_000], threads=3)",
    "an estimate": "_core.token_estimate(['e\\u0301 ' * 60_000_000] * 4)",
    "an upper bound": "ctxembed.token_upper_bound(['e\\u0301 ' * 60_000_000] * 4)",
}
INTERRUPTED = """
import signal, sys, threading, time
import ctxembed
from ctxembed import _core
counter = ctxembed.TokenCounter.from_file(sys.argv[1])
raised = []

def interrupt():
    time.sleep(0.3)
    raised.append(time.process_time())
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    {call}
except KeyboardInterrupt:
    print(time.process_time() - raised[0])
else:
    print("not interrupted" if not raised else "too late")
"""


@pytest.mark.parametrize("call", LONG_CALLS)
def test_ctrl_c_interrupts_a_long_count(heron, call):
    program = INTERRUPTED.format(call=LONG_CALLS[call])
    run = subprocess.run([sys.executable, "-c", program, heron.path], capture_output=True, text=True, check=True)
    # Seconds of the processor: the work that one step does at most. On a busy machine the same work takes several times
    # as much of them.
    assert float(run.stdout) < 10.0


COUNTED = {
    "from_file": ("path, Counter = {path!r}, ctxembed.TokenCounter", "Counter.from_file(path)"),
    "count": ("counter = ctxembed.TokenCounter.from_file({path!r})\ntext = 'heron'", "counter.count(text * 10)"),
    "a long word": (
        "counter = ctxembed.TokenCounter.from_file({path!r})\ntext = 'ab' * 5_000_000",
        "counter.count(text)",
    ),
    "marks": (
        "counter = ctxembed.TokenCounter.from_file({path!r})\ntext = 'e' + '\\u0301' * 9_000_000",
        "counter.count(text)",
    ),
    "NFC": (
        "counter = ctxembed.TokenCounter.from_file({path!r})\ntext = 'e\\u0301 ' * 40_000_000",
        "counter.count(text)",
    ),
    "many texts": (
        "counter = ctxembed.TokenCounter.from_file({path!r})\ntexts = ['heron'] * 12_000_000",
        "counter.count_batch(texts, threads=4)",
    ),
    "chunks": (
        "texts = ['heron'] * 9_000_000",
        "[_core.inspect_chunks(texts, '<|endoftext|>'), _core.check_chunks(texts, '<|endoftext|>')]",
    ),
}


@pytest.mark.parametrize("call", COUNTED)
def test_short_memory_is_a_memory_error(heron, call):
    setup, counted = COUNTED[call]
    assert short_memory.outcomes(setup.format(path=heron.path), counted)[0] == "MemoryError"
