"""The synchronous client while the interpreter ends: calls work, and nothing is printed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
    import atexit, os, queue, sys, threading, time, weakref
    from concurrent.futures import ThreadPoolExecutor
    import ctxembed

    if sys.argv[2] == "http_client":
        import httpx
        options = {"http_client": httpx.Client()}
    else:
        options = {"transport": sys.argv[2]}
    client = ctxembed.Client("key-1234", base_url=sys.argv[1], max_retries=1, **options)

    def call(number=0):
        try:
            emb = client.embed([[f"text {number}"]], deadline=20)
            parts = sum(len(part) for part in client.stream([[f"text {number}"]] * 3))
            os.write(1, b"ok\\n" if (len(emb), parts) == (1, 3) else b"wrong\\n")
        except BaseException as error:
            os.write(1, f"{type(error).__name__}: {error}\\n".encode())
"""

WORK = {
    "a thread pool that is not shut down": (
        """
        pool = ThreadPoolExecutor(2)
        for number in range(20):
            pool.submit(call, number)
        """,
        20,
    ),
    "plain threads": (
        """
        def work():
            for number in range(5):
                call(number)
        for _ in range(4):
            threading.Thread(target=work).start()
        """,
        20,
    ),
    "a timer": ("threading.Timer(0.5, call).start()", 1),
    "a daemon thread that the main thread joins at exit": (
        """
        def end():
            thread.join()
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        atexit.register(end)
        """,
        1,
    ),
    "atexit, first call": ("atexit.register(call)", 1),
    "atexit, after a call": ("call(); atexit.register(call); atexit.register(call)", 3),
    "atexit, registered before the client is imported": (
        "",  # see EARLY
        1,
    ),
    "a finalizer": ("weakref.finalize(sys, call)", 1),
    "a thread pool that starts in atexit": (
        """
        def late():
            thread = threading.Thread(target=call)
            try:
                thread.start()
            except RuntimeError:
                call()
            else:
                thread.join()
        atexit.register(late)
        """,
        1,
    ),
    "an open stream": (
        "stream = client.stream([[str(i)] for i in range(10**4)]); next(stream); os.write(1, b'ok\\n')",
        1,
    ),
    "a closed client": ("call(); client.close()", 1),
}

EARLY = """
    import atexit
    atexit.register(lambda: call())
"""


@pytest.mark.parametrize("transport", ["httpx", "aiohttp", "http_client"])
@pytest.mark.parametrize("name", WORK)
def test_calls_work_while_the_interpreter_ends(server, name, transport):
    work, count = WORK[name]
    early = EARLY if "before" in name else ""
    code = "\n".join(textwrap.dedent(part) for part in (early, PRELUDE, work))
    host_name = server.base_url.replace("127.0.0.1", "localhost")  # a look-up needs a thread, or the caller's
    warn = "ignore" if transport == "http_client" else "default"  # this client is the caller's to close
    command = [sys.executable, "-W", warn, "-c", code, host_name, transport]
    result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)
    assert (result.stdout.splitlines(), result.stderr, result.returncode) == (["ok"] * count, "", 0)


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_call_after_the_modules_are_gone_is_an_error(server, transport):
    work = """
        class Last:
            def __del__(self, call=call):
                call()
        last = Last()
        call()
    """
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(work)]
    result = subprocess.run(
        [*command, server.base_url, transport], capture_output=True, check=False, text=True, timeout=120
    )
    first, last = result.stdout.splitlines()
    assert (first, result.stderr, result.returncode) == ("ok", "", 0)
    assert last.startswith("ClosedClientError: the interpreter has ended")
