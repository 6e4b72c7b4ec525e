"""The package as a whole: names, import, instruction sets, threads, forks, memory."""

from __future__ import annotations

import ast
import gc
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed._core import isa_names

from . import notices
from .codec.conftest import chunk_vectors, response, to_json


def test_all_is_sorted_and_every_name_exists():
    assert ctxembed.__all__ == sorted(ctxembed.__all__)
    assert len(set(ctxembed.__all__)) == len(ctxembed.__all__)
    for name in ctxembed.__all__:
        assert getattr(ctxembed, name) is not None
    assert set(ctxembed.__all__) <= set(dir(ctxembed))


def test_all_lists_the_names_that_init_imports():
    """Both those imported at once and those under TYPE_CHECKING, which load when they are first used."""
    tree = ast.parse(Path(ctxembed.__file__).read_text(encoding="utf-8"))
    statements = [*tree.body, *(inner for node in tree.body if isinstance(node, ast.If) for inner in node.body)]
    own = [node for node in statements if isinstance(node, ast.ImportFrom) and node.module.startswith("ctxembed.")]
    assert sorted(alias.name for node in own for alias in node.names) == ctxembed.__all__


def test_an_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ctxembed.nonsense  # noqa: B018


def run(code: str, **extra: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **extra}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_no_http_stack_and_starts_no_thread():
    code = (
        "import sys, threading, ctxembed\n"
        "heavy = {'httpx', 'anyio', 'rich', 'typer', 'fastapi', 'asyncio', 'pyarrow'} & set(sys.modules)\n"
        "print(sorted(heavy), threading.active_count())"
    )
    assert run(code) == "[] 1"


def test_importing_loads_what_decodes_and_searches():
    code = (
        "import sys, ctxembed\n"
        "print(*sorted(name.partition('.')[2] for name in sys.modules if name.startswith('ctxembed.')))"
    )
    assert run(code) == "_codec _core _costs _errors _models _parsed_response _results"


def test_names_that_load_late_are_the_same_in_every_thread():
    code = """
import sys, threading
import ctxembed
sys.setswitchinterval(1e-6)
names = [name for name in ctxembed.__all__ if name not in vars(ctxembed)]
found, together = [], threading.Barrier(4)
def use(order):
    together.wait(30)
    found.append({name: getattr(ctxembed, name) for name in order})
threads = [threading.Thread(target=use, args=[names[::step]]) for step in (1, -1, 1, -1)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert len(names) > 50 and len(found) == 4, (names, found)
assert all(each[name] is vars(ctxembed)[name] for each in found for name in names)
print({value.__module__ for each in found for value in each.values() if isinstance(value, type)})
"""
    assert run(code) == "{'ctxembed'}"


@pytest.mark.parametrize("isa", isa_names())
def test_the_environment_lowers_but_never_raises_the_instruction_set(isa):
    code = "from ctxembed._core import isa_paths; print(*[path for _, path in isa_paths()])"
    native = run(code, CTXEMBED_ISA="").split()
    lowered = run(code, CTXEMBED_ISA=isa).split()
    assert lowered == [min(path, isa, key=isa_names().index) for path in native]


def test_every_instruction_set_gives_the_same_results():
    code = """
import hashlib, numpy as np, ctxembed
rng = np.random.default_rng(5)
v = rng.integers(-128, 128, (97, 1000), dtype=np.int8)
texts = ctxembed.encode_base64(v)
bits = ctxembed.pack_bits(v)
parts = [np.frombuffer("".join(texts).encode(), np.uint8), ctxembed.decode_base64(texts), bits,
         ctxembed.unpack_bits(bits), ctxembed.reverse_bit_order(bits), ctxembed.normalize(v),
         ctxembed.hamming(bits[:9], bits), ctxembed.dot(v[:9], v), ctxembed.cosine(v[:9], v)]
for metric, rows in (("hamming", bits), ("cosine", v), ("dot", v)):
    m = ctxembed.top_k(rows[:9], rows, 13, metric=metric)
    parts += [m.ids, m.scores]
print(hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest())
"""
    assert len({run(code, CTXEMBED_ISA=isa) for isa in isa_names()}) == 1


BODY_SHAPE = [3, 5, 1]
BODY_VECTORS = chunk_vectors(BODY_SHAPE, 1024)
BODY = to_json(response(BODY_SHAPE, BODY_VECTORS))


def decode_and_search(_: int) -> tuple[np.ndarray, np.ndarray]:
    emb = ctxembed.decode_response(BODY, shape=BODY_SHAPE)
    return emb.vectors, ctxembed.top_k(emb.vectors, emb.vectors, 3, metric="cosine").ids


def test_eight_threads_give_the_same_results_as_one():
    expected = decode_and_search(0)
    with ThreadPoolExecutor(8) as pool:
        for vectors, ids in pool.map(decode_and_search, range(400)):
            np.testing.assert_array_equal(vectors, expected[0])
            np.testing.assert_array_equal(ids, expected[1])


def test_a_forked_process_can_decode_and_search():
    expected = decode_and_search(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            vectors, ids = decode_and_search(0)
            good = (vectors == expected[0]).all() and (ids == expected[1]).all()
            os.write(writer, b"ok" if good else b"no")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"ok"
    os.waitpid(child, 0)


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_calls():
    damaged = BODY[:-40]

    def cycle() -> None:
        for _ in range(300):
            decode_and_search(0)
            with pytest.raises(ctxembed.DecodeError):
                ctxembed.decode_response(damaged)
            ctxembed.decode_base64(ctxembed.encode_base64(BODY_VECTORS))
        gc.collect()

    cycle()
    before = resident_kib()
    for _ in range(5):
        cycle()
    assert resident_kib() - before < 8 * 1024


def test_an_interrupt_while_numpy_is_imported_does_not_panic(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")
    run = subprocess.run(
        [sys.executable, "-c", "import ctxembed"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert "panicked" not in run.stderr


def test_the_notices_are_those_of_the_linked_crates():
    """Where this fails after a change of Cargo.lock, run ``make notices``."""
    assert notices.NOTICES.read_text(encoding="utf-8") == notices.notices()
    assert notices.COMPONENTS.read_text(encoding="utf-8") == notices.components()
