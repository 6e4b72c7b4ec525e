"""Every error class has a stable code, and docs/errors.md explains each."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import ctxembed
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def tree(cls=ctxembed.CtxembedError):
    """The package's error classes, each once."""
    found = [cls]
    for child in cls.__subclasses__():
        if child.__module__ == "ctxembed":
            found += tree(child)
    return list(dict.fromkeys(found))


CLASSES = tree()


def test_the_tree_is_the_public_one():
    public = [getattr(ctxembed, name) for name in ctxembed.__all__]
    errors = {cls for cls in public if inspect.isclass(cls) and issubclass(cls, Exception)}
    assert set(CLASSES) == errors


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_defines_its_own_code(cls):
    assert re.fullmatch(r"CTX-\d{3}", vars(cls)["code"])


def test_codes_are_unique():
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


def test_the_page_explains_each_class_once():
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (CTX-\d{3}) \| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    assert sorted((code, name) for code, name, _, _ in rows) == sorted((cls.code, cls.__name__) for cls in CLASSES)
    retired = re.findall(r"CTX-\d{3}", text.partition("Retired codes:")[2])
    assert not {cls.code for cls in CLASSES} & set(retired)


def test_codes_never_change():
    """Changing this list breaks what users search for. Only additions at the end are allowed."""
    assert [cls.__name__ for cls in sorted(CLASSES, key=lambda cls: cls.code)][:21] == [
        "CtxembedError", "APIError", "APIConnectionError", "APITimeoutError", "APIStatusError", "BadRequestError",
        "AuthenticationError", "PermissionDeniedError", "NotFoundError", "UnprocessableEntityError", "RateLimitError",
        "InternalServerError", "BadResponseError", "DecodeError", "DocumentError", "EmbedError",
        "InvalidDocumentsError", "MissingKeyError", "IndexFileError", "ClosedClientError",
        "SpaceError",
    ]  # fmt: skip
    assert [cls.code for cls in sorted(CLASSES, key=lambda cls: cls.code)][:21] == [f"CTX-{n:03}" for n in range(1, 22)]


def test_an_instance_has_its_code_after_pickling():
    error = ctxembed.RateLimitError("slow down", 429, None, {"retry-after": "1"})
    assert (error.code, pickle.loads(pickle.dumps(error)).code) == ("CTX-011", "CTX-011")
