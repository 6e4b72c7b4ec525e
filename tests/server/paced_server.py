"""A server whose embedder computes when a test says so: ``python paced_server.py OPTIONS``, a dict of ServerConfig's.

It writes what it does to stdout, a line each, after the address: ``pass NAME`` when the pass of a document begins, the
first chunk of which starts with NAME. Lines of stdin control it: ``load`` lets the model be loaded (only waited for
with the option ``loads``), ``fail`` lets that fail, ``go`` lets one pass of a document named ``held...`` end.
"""

from __future__ import annotations

import ast
import queue
import sys
import threading
from dataclasses import replace

import ctxembed
from ctxembed._backends.hashed import HashedEmbedder
from ctxembed._results import InvalidDocumentsError, Problem
from ctxembed._server import ServerConfig, serve

LOCAL = replace(ctxembed.get_model("pplx-embed-context-v1-0.6b"), name="paced-model", digest="0123abcd")
CONTEXT = 40
HELD = threading.Semaphore(0)
LOADS: queue.Queue[str] = queue.Queue()


class Paced:
    """The stand-in, a document a pass, with the context of a small model."""

    def __init__(self, models):
        self._stand_in = HashedEmbedder(models)
        self.model = models[0]
        self.context_tokens = CONTEXT
        self.space = self._stand_in.space
        self.count_tokens = self._stand_in.count_tokens

    def embed(self, documents, *, check, **options):
        counts = [[self.count_tokens([[chunk]])[0] for chunk in chunks] for chunks in documents]
        problems = tuple(
            Problem(position, number, f"has {count} tokens, more than the {CONTEXT} of a pass")
            for position, chunks in enumerate(counts)
            for number, count in enumerate(chunks)
            if count > CONTEXT
        )
        if problems:
            raise InvalidDocumentsError("refused", None, (), problems)
        for chunks in documents:
            check()
            name = chunks[0].split()[0]
            if not name.startswith("quiet"):
                print("pass", name, flush=True)
            if name.startswith("held"):
                HELD.acquire()
        return self._stand_in.embed(documents, **options)


def control():
    for line in sys.stdin:
        if line.strip() == "go":
            HELD.release()
        else:
            LOADS.put(line.strip())


def load():
    if LOADS.get() == "fail":
        raise ValueError("the model of this test cannot be loaded")
    return Paced([LOCAL])


if __name__ == "__main__":
    options = ast.literal_eval(sys.argv[1])
    threading.Thread(target=control, daemon=True).start()
    if options.pop("loads", False):
        serve(ServerConfig(models=None, **options), load)
    else:
        config = ServerConfig(threads=1, **options)
        serve(config, Paced(config.models))
