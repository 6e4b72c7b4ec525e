"""What a TokenCounter is to a program: its arguments, its copies, its threads, its memory, and its place in a plan."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctxembed
import numpy as np
import pytest

from .conftest import DATA, FILE


@pytest.fixture
def heron(small, written):
    return ctxembed.TokenCounter.from_file(written(small))


def test_merges_are_counted_in_order_of_rank(heron):
    assert heron.backend == "native"
    assert heron.reason is None
    assert heron.count("heron") == 2  # hero, n
    assert heron.count(" heron") == 3  # space, hero, n: (h, e) and (he, ro) come before (space, he)
    assert heron.count("") == 0


def test_an_added_token_is_one_wherever_it_stands_and_the_longest_counts(heron):
    assert heron.count("he<end>ro<endless>[x]") == 5
    assert heron.count("<end") == 4
    assert heron.count("<endl<end>") == 6


def test_batches_are_int64_in_the_order_of_the_texts(heron):
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
def test_what_is_no_list_of_str_is_refused(small, written, change, texts, error, message):
    if change:
        pytest.importorskip("tokenizers")
        small["added_tokens"][0][change] = True
    counter = ctxembed.TokenCounter.from_file(written(small))
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
def test_what_is_no_text_is_refused(small, written, change, text, error, message):
    if change:
        pytest.importorskip("tokenizers")
        small["added_tokens"][0][change] = True
    counter = ctxembed.TokenCounter.from_file(written(small))
    with pytest.raises(error, match=message):
        counter.count(text)


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_number_of_threads_is_a_positive_int(heron, threads, error):
    with pytest.raises(error, match="threads must be"):
        heron.count_batch(["a"], threads=threads)


def test_a_counter_is_made_from_a_file_only():
    with pytest.raises(TypeError, match="from_file"):
        ctxembed.TokenCounter()


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        ctxembed.TokenCounter.from_file(tmp_path / "none.json")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        ctxembed.TokenCounter.from_file(tmp_path)


def test_the_hub_is_asked_for_the_file(small, written, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    path, asked = str(written(small)), []

    def download(*args, **options):
        asked.append((args, options))
        return path

    monkeypatch.setattr(hub, "hf_hub_download", download)
    counter = ctxembed.TokenCounter.from_pretrained("owner/name", revision="v1")
    assert counter.count("heron") == 2
    assert asked == [(("owner/name", "tokenizer.json"), {"revision": "v1", "token": None})]


def test_without_the_hubs_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ctxembed\[tokens\]'"):
        ctxembed.TokenCounter.from_pretrained("owner/name")


def test_a_counter_pickles_as_long_as_its_file_is_there_and_the_same(small, written):
    path = written(small)
    counter = ctxembed.TokenCounter.from_file(path)
    copy = pickle.loads(pickle.dumps(counter))
    assert copy.count("heron") == counter.count("heron")
    assert repr(copy) == repr(counter) == f"TokenCounter.from_file({str(path)!r})"
    stored = pickle.dumps(counter)
    small["added_tokens"].pop()
    written(small)
    with pytest.raises(ValueError, match="checksums differ"):
        pickle.loads(stored)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(stored)


def corpus() -> list[str]:
    return [
        path.read_text() for folder in ("rustbook_en", "rustbook_zh") for path in (DATA / "corpus" / folder).iterdir()
    ]


def test_any_number_of_threads_gives_the_same_counts(counter):
    texts = corpus()
    expected = counter.count_batch(texts, threads=1)
    for threads in (2, 3, 8, 1000):
        np.testing.assert_array_equal(counter.count_batch(texts, threads=threads), expected)
    np.testing.assert_array_equal([counter.count(text) for text in texts], expected)


def test_eight_threads_may_use_one_counter(counter):
    texts = corpus()[:60]
    expected = counter.count_batch(texts).tolist()
    with ThreadPoolExecutor(8) as pool:
        for counts in pool.map(lambda _: counter.count_batch(texts).tolist(), range(16)):
            assert counts == expected
        assert list(pool.map(counter.count, texts)) == expected


def test_a_process_forked_while_others_count_goes_on_counting(counter):
    texts = corpus()[:20]
    expected = counter.count_batch(texts).tolist()
    done = threading.Event()

    def busy():
        while not done.is_set():
            counter.count_batch(texts)

    workers = [threading.Thread(target=busy) for _ in range(3)]
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


def test_the_interpreter_is_released_while_counting(counter):
    text = "".join(corpus()) * 4
    seconds, done = [], threading.Event()

    def count():
        start = time.perf_counter()
        counter.count(text)
        seconds.append(time.perf_counter() - start)
        done.set()

    worker = threading.Thread(target=count)
    worker.start()
    # Were it not released, this thread would stand still for as long as the counting takes.
    longest, last = 0.0, time.perf_counter()
    while not done.is_set():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    worker.join()
    assert longest < seconds[0] / 2


def test_a_plan_with_a_counter_is_exact(counter):
    documents = [["The heron stood in the reeds.", "It caught a fish."], ["\u4e2d\u6587"]]
    plan = ctxembed.plan(documents, token_counter=counter)
    assert plan.exact_tokens
    assert plan.tokens == plan.tokens_upper == counter.count_batch([*documents[0], *documents[1]]).sum() + 1
    assert "(counted)" in str(plan)


def test_a_client_counts_with_it(counter, server):
    with ctxembed.Client(api_key="any", base_url=server.base_url, token_counter=counter) as client:
        emb = client.embed([["The heron stood in the reeds.", "It caught a fish."]])
    assert emb.vectors.shape[0] == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists() or not FILE.exists(), reason="needs /proc and the file")
def test_tables_and_caches_stay_under_64_mb():
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
counter = ctxembed.TokenCounter.from_file({str(FILE)!r})
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
