"""The progress bar on a terminal that is odd, dead or absent: the call keeps its result."""

from __future__ import annotations

import errno
import io
import os
import pty
import sys

import ctxembed
import pytest


class Terminal(io.StringIO):
    """A terminal, of which methods and attributes can be replaced."""

    def __init__(self, **replaced):
        super().__init__()
        for name, value in replaced.items():
            setattr(self, name, value)

    encoding = None

    def isatty(self):
        return True


def fails(number):
    def call(*args):
        raise OSError(number, os.strerror(number))

    return call


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def unclear(*args):
    raise RuntimeError("no idea")


STREAMS = {
    "none": lambda: None,
    "closed": closed,
    "no stream at all": object,
    "write: EIO": lambda: Terminal(write=fails(errno.EIO)),
    "write: EPIPE": lambda: Terminal(write=fails(errno.EPIPE)),
    "write: any error": lambda: Terminal(write=unclear),
    "flush: EIO": lambda: Terminal(flush=fails(errno.EIO)),
    "isatty: OSError": lambda: Terminal(isatty=fails(errno.EBADF)),
    "isatty: any error": lambda: Terminal(isatty=unclear),
    "fileno: OSError": lambda: Terminal(fileno=fails(errno.EBADF)),
    "fileno: a lie": lambda: Terminal(fileno=lambda: 99),
    "ascii": lambda: io.TextIOWrapper(_tty_bytes(), encoding="ascii"),
}


def _tty_bytes():
    raw = io.BytesIO()
    raw.isatty = lambda: True
    return raw


@pytest.mark.parametrize("name", STREAMS)
def test_the_result_is_kept_whatever_stderr_is(server, monkeypatch, name):
    with ctxembed.Client(api_key="k", base_url=server.base_url) as client:
        monkeypatch.setattr(sys, "stderr", STREAMS[name]())
        try:
            emb = client.embed([["a"], ["b"]], progress=True)
            parts = list(client.stream([["a"]], progress=True))
        finally:
            monkeypatch.undo()
    assert len(emb.vectors) == 2
    assert len(parts) == 1


def test_the_result_is_kept_when_the_terminal_goes_away(server, monkeypatch):
    terminal, side = pty.openpty()

    def close_terminal(event):
        os.close(terminal)

    with ctxembed.Client(api_key="k", base_url=server.base_url, on_response=close_terminal) as client:
        stream = os.fdopen(side, "w", buffering=1)
        monkeypatch.setattr(sys, "stderr", stream)
        try:
            emb = client.embed([["a"]], progress=True)
        finally:
            monkeypatch.undo()
            os.dup2(os.open(os.devnull, os.O_WRONLY), side)  # what is buffered has a place to go
            stream.close()
    assert len(emb.vectors) == 1


def test_a_terminal_shows_the_bar(server, monkeypatch):
    terminal = Terminal()
    with ctxembed.Client(api_key="k", base_url=server.base_url) as client:
        monkeypatch.setattr(sys, "stderr", terminal)
        try:
            client.embed([["a"], ["b"]], progress=True)
        finally:
            monkeypatch.undo()
    assert "embedding" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
