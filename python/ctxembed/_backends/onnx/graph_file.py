"""Finds the external data of an ONNX graph: a reader of just these fields of its protobuf message.

The package ``onnx`` would read them too, but parses all weights into memory. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["external_data"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types

# For each message: the fields that lead to tensors, and the messages in them.
_FIELDS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST: Final = 64


def external_data(graph: Path) -> list[str]:
    """Return the names of the files that hold weights of a graph, as it names them: sorted, each once.

    Parameters
    ----------
    graph : Path
        An ONNX file.

    Returns
    -------
    list of str
        Relative to the folder of the graph. Nothing is checked of them.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no ONNX file.
    """
    with graph.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return sorted(set(_locations(content, "model", 0, len(content), 0)))
        except (ValueError, IndexError, UnicodeDecodeError) as error:  # a file without bytes cannot be mapped
            raise ValueError(f"{graph} is no ONNX file, or is cut off: {error}") from None


def _locations(content: mmap.mmap, message: str, start: int, stop: int, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError(f"graphs are nested more than {_DEEPEST} deep")
    inner = _FIELDS[message]
    for number, first, last in _fields(content, start, stop):
        kind = inner.get(number)
        if kind == "entry":
            entry = {
                at: content[begin:end].decode() for at, begin, end in _fields(content, first, last) if at in (1, 2)
            }
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif kind is not None:
            yield from _locations(content, kind, first, last, depth + 1)


def _fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of each field that holds bytes: strings and messages."""
    at = start
    while at < stop:
        key, at = _varint(content, at, stop)
        wire = key & 7
        if wire == _VARINT:
            _, at = _varint(content, at, stop)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            size, at = _varint(content, at, stop)
            if at + size <= stop:
                yield key >> 3, at, at + size
            at += size
        else:
            raise ValueError(f"byte {at} has the wire type {wire}")
        if at > stop:
            raise ValueError(f"a field ends at byte {at}, behind the end of its message at {stop}")


def _varint(content: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 64:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number at byte {at} has no end")
