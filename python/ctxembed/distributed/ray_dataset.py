"""Embedding of Ray datasets: a pool of actors, each with a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ctxembed._client.asynchronous import AsyncClient
from ctxembed._client.record_batch import COLUMNS, aembed_batch
from ctxembed._extras import require
from ctxembed._models import DEFAULT_MODEL, check_dimensions, get_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from ctxembed._models import EncodingFormat

__all__ = ["embed"]

_MAP_OPTIONS: Final = {"num_cpus": 0.25, "batch_size": 256}
"""An actor mostly waits for the network. Of a batch, what is in flight is all that a lost worker costs."""


def embed(
    dataset: Any,
    *,
    id: str = "id",  # noqa: A002
    chunks: str = "chunks",
    model: str = DEFAULT_MODEL,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
    client_options: Mapping[str, Any] | None = None,
    journal: Any = None,
    limiter: Any = None,
    concurrency: int | tuple[int, int] = (1, 8),
    **map_options: Any,
) -> Any:
    """Embed the documents of a Ray dataset, one a row, with a pool of actors.

    Parameters
    ----------
    dataset : ray.data.Dataset
        Rows with a list of str, the chunks of a document in their order.
    id : str, default "id"
        Column of the documents' ids.
    chunks : str, default "chunks"
        Column of the chunks.
    model : str
        Name of a registered contextualized model.
    dimensions : int, optional
        Dimensions of the vectors. Default: the model's.
    encoding_format : {"base64_int8", "base64_binary"}
        int8 vectors, or packed bits.
    client_options : dict, optional
        Options of the :class:`AsyncClient` of each actor. They are pickled. Without an ``api_key`` an actor reads its
        environment: set ``PERPLEXITY_API_KEY`` on the nodes, or by ``runtime_env`` of ``ray.init``.
    journal : JournalFolder, object or callable, optional
        The ``journal`` of each client: an object that pickles, or a callable without arguments that creates one in each
        actor. With it, documents are not paid for again when a worker or the driver is killed.
    limiter : object or callable, optional
        The ``limiter`` of each client, which keeps all of them together within one limit: an object that pickles, or a
        callable without arguments that creates one in each actor.
    concurrency : int or (int, int), default (1, 8)
        Number of actors, or the least and the most.
    **map_options
        Further options of ``Dataset.map_batches``: ``batch_size`` (256 documents), ``num_cpus`` (0.25), ``memory`` ...

    Returns
    -------
    ray.data.Dataset
        Lazy, as Ray's are. The same rows with the columns of :func:`embed_batch`: ``vectors``, ``tokens``, ``cost_usd``
        and ``error``.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be. Nothing was started.
    ImportError
        Ray is not installed: ``pip install 'ctxembed[ray]'``.

    Notes
    -----
    A document that fails has its error in its row, and the others are embedded. Ray's checkpoints take such a row for
    done.
    """
    ray_data = require("ray.data", "ray", "ctxembed.distributed.ray.embed")
    if not isinstance(dataset, ray_data.Dataset):
        raise TypeError(f"dataset must be a ray.data.Dataset, got {type(dataset).__name__}")
    check_dimensions(get_model(model, contextualized=True), dimensions, encoding_format)
    names = dataset.columns(fetch_if_missing=False) or []
    if there := [column for column in COLUMNS if column in names]:
        raise ValueError(f"dataset already has a column {there[0]!r}: rename it, since the vectors add one")
    options = dict(client_options or {})
    for name, value in (("journal", journal), ("limiter", limiter)):
        if value is not None and options.get(name) is not None:
            raise ValueError(f"{name} is given twice: as an argument, and in client_options")
    low, high = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    call = {
        "id": id,
        "chunks": chunks,
        "model": model,
        "dimensions": dimensions,
        "encoding_format": encoding_format,
    }
    return dataset.map_batches(
        _Actor,
        fn_constructor_args=(options, journal, limiter, call),
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray_data.ActorPoolStrategy(min_size=low, max_size=high),
        **{**_MAP_OPTIONS, **map_options},
    )


class _Actor:
    """One of the pool: embeds the batches that Ray hands it, several at once."""

    def __init__(self, options: dict[str, Any], journal: Any, limiter: Any, call: dict[str, Any]) -> None:
        for name, given in (("journal", journal), ("limiter", limiter)):
            if given is not None:
                options = {**options, name: _made(given)}
        self._client = AsyncClient(**options)
        self._call = call

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the vectors."""
        import pyarrow as pa

        whole = table.combine_chunks()
        batches = whole.to_batches() or [pa.RecordBatch.from_pylist([], schema=whole.schema)]
        return pa.Table.from_batches([await aembed_batch(batch, self._client, **self._call) for batch in batches])


def _made(given: Any | Callable[[], Any]) -> Any:
    """Return the object, or what the callable creates."""
    is_factory = isinstance(given, type) or (
        callable(given) and not hasattr(given, "get") and not hasattr(given, "reserve")
    )
    return given() if is_factory else given
