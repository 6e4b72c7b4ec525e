"""Vectors that are cut from stored ones: fewer dimensions, or bits, of the same model. Nothing is sent for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._collection.rows import row_numbers
from ctxembed._documents import Document
from ctxembed._jobs.documents import check_document
from ctxembed._jobs.store import InFlight
from ctxembed._models import get_model
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._results import NO_USAGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._collection.state import Generation
    from ctxembed._collection.store import Store
    from ctxembed._collection.view import View
    from ctxembed._jobs.store import NewDocument

__all__ = ["cut_stored", "is_cut_from"]

_AT_ONCE: Final = 1000


def is_cut_from(generation: Generation, model: str, dimensions: int, encoding_format: str) -> bool:
    """Return whether vectors of a kind can be cut from those of a generation.

    The first values of an int8 vector are the vector of fewer dimensions, and their signs are its bits. A model with
    choices of dimensions has a space for each of them.
    """
    del encoding_format
    return (
        generation.encoding_format == "base64_int8"
        and generation.model == model
        and dimensions <= generation.dimensions
        and get_model(model).dimension_choices is None
    )


def cut_stored(store: Store, view: View) -> int:
    """Store vectors that are cut from those of a state, for all of its documents, and no others.

    Parameters
    ----------
    store : Store
        Of the new generation.
    view : View
        The state.

    Returns
    -------
    int
        How many documents were there already.
    """
    number = store.begin()
    keys = DocumentKeys(store.model, store.dimensions, store.encoding_format)
    unchanged = 0
    batch: list[tuple[tuple[Any, ...], NewDocument]] = []
    for values in view.all_documents():
        document = view.document(values)
        new = check_document(Document(document.id, document.chunks), number, keys, {})
        number += 1
        new.replaces = store.find(new.id)
        if new.replaces is not None and new.replaces.key == new.key:
            unchanged += 1
            continue
        batch.append((values, new))
        if len(batch) >= _AT_ONCE:
            _store(store, view, batch)
            batch = []
    if batch:
        _store(store, view, batch)
    gone = [name for name in store.ids() if view.find(name) is None]
    store.delete(gone)
    store.end()
    return unchanged


def _store(store: Store, view: View, batch: list[tuple[tuple[Any, ...], NewDocument]]) -> None:
    view.check_vectors(values for values, _ in batch)
    rows: NDArray[Any] = view.index.vectors(row_numbers([values[6:8] for values, _ in batch]))
    cut: NDArray[Any] = np.ascontiguousarray(rows[:, : store.dimensions])
    if store.encoding_format == "base64_binary":
        cut = _core.pack_bits(cut)
    store.commit(
        [new for _, new in batch],
        cut,
        usage=NO_USAGE,
        space=view.generation.space,
        windows={},
        spent_windows=(),
        in_flight=InFlight(),
    )
