from __future__ import annotations

from pathlib import Path

import pytest
from ctxembed import backends

from tests.backends.tiny_qwen3 import write_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    return backends.load(tiny_folder, threads=1)


@pytest.fixture(scope="session")
def minilm():
    return backends.demo(threads=1)
