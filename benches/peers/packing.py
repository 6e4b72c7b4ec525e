"""Documents to requests: each call takes token counts and returns the documents of each request.

The packages support a single limit, the capacity. They run only the cases in which no other limit binds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import binpacking
import ctxembed
import numpy as np
import seqpacker

from benches.harness import Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.cases.packing import FamilyCase, PackCase

    Call = Callable[[], Any]


def ours(case: PackCase, _threads: int) -> Call:
    tokens, chunks, limits = case.tokens, case.chunks, case.limits
    return lambda: ctxembed.pack(tokens, chunks, limits=limits).requests


def ours_patient(case: PackCase, _threads: int) -> Call:
    """Search for up to a second while the packing is above the bound."""
    tokens, chunks, limits = case.tokens, case.chunks, case.limits
    return lambda: ctxembed.pack(tokens, chunks, limits=limits, effort=1.0).requests


def each(prepare: Callable[[PackCase, int], Call], case: FamilyCase, threads: int) -> Call:
    """Pack every instance of a family in turn."""
    calls = [prepare(instance, threads) for instance in case.instances]
    return lambda: [call() for call in calls]


def seqpacker_strategy(strategy: str, case: PackCase, _threads: int) -> Call:
    packer, tokens = seqpacker.Packer(capacity=case.limits.tokens, strategy=strategy), case.tokens

    def call() -> list[np.ndarray]:
        flat, offsets = packer.pack_flat(tokens)  # "for maximum performance", says its documentation
        edges = [0, *offsets.tolist(), len(flat)]
        return [flat[start:end] for start, end in pairwise(edges)]

    return call


def binpacking_volume(case: PackCase, _threads: int) -> Call:
    tokens, capacity = dict(enumerate(case.tokens.tolist())), case.limits.tokens
    return lambda: [list(request) for request in binpacking.to_constant_volume(tokens, capacity)]


def next_fit(case: PackCase, _threads: int) -> Call:
    """The usual code: fill a request until the next document does not fit."""
    limits = case.limits
    costs = case.costs.tolist()
    chunk_counts = [1] * len(costs) if case.chunks is None else case.chunks.tolist()

    def call() -> list[list[int]]:
        requests: list[list[int]] = []
        current: list[int] = []
        tokens = chunks = 0
        for document, (cost, count) in enumerate(zip(costs, chunk_counts, strict=True)):
            full = len(current) == limits.documents or chunks + count > limits.chunks or tokens + cost > limits.tokens
            if full:
                requests.append(current)
                current, tokens, chunks = [], 0, 0
            current.append(document)
            tokens += cost
            chunks += count
        if current:
            requests.append(current)
        return requests

    return call


def best_fit_decreasing(case: PackCase, _threads: int) -> Call:
    """Put the largest document first, each into the fullest request with room, found in a sorted list by bisection."""
    tokens, capacity = case.tokens, case.limits.tokens

    def call() -> list[list[int]]:
        order = np.argsort(-tokens, kind="stable").tolist()
        sizes = tokens.tolist()
        smallest = sizes[order[-1]]
        requests: list[list[int]] = []
        rooms: list[tuple[int, int]] = []
        for document in order:
            size = sizes[document]
            place = bisect_left(rooms, (size, 0))
            if place == len(rooms):
                room, request = capacity, len(requests)
                requests.append([])
            else:
                room, request = rooms.pop(place)
            requests[request].append(document)
            if room - size >= smallest:
                insort(rooms, (room - size, request))
        return requests

    return call


def _one_limit(case: PackCase) -> bool:
    return case.chunks is None


def _at_most_1000(case: PackCase) -> bool:
    return len(case.tokens) <= 1000


def _few(case: PackCase) -> bool:
    # binpacking scans every bin for every item.
    return _one_limit(case) and len(case.tokens) <= 10_000


PACK = (
    Peer("ctxembed.pack", ours, "ours"),
    Peer("ctxembed.pack, effort=1", ours_patient, "ours", takes=_at_most_1000),
    Peer("seqpacker obfd", partial(seqpacker_strategy, "obfd"), takes=_one_limit),
    Peer("seqpacker ffd", partial(seqpacker_strategy, "ffd"), takes=_one_limit),
    Peer("binpacking", binpacking_volume, takes=_few),
    Peer("best-fit-decreasing, Python", best_fit_decreasing, takes=_one_limit),
    Peer("next-fit, Python", next_fit),
)

ARRANGED = tuple(peer for peer in PACK if peer.name in ("ctxembed.pack", "seqpacker ffd", "next-fit, Python"))
"""The peers for a million documents. The others take seconds for some arrangements."""


def _tokens_alone(case: FamilyCase) -> bool:
    return all(_one_limit(one) and len(one.tokens) <= one.limits.documents for one in case.instances)


FAMILY = (
    Peer("ctxembed.pack, effort=1", partial(each, ours_patient), "ours"),
    Peer("ctxembed.pack", partial(each, ours), "ours"),
    Peer("seqpacker obfd", partial(each, partial(seqpacker_strategy, "obfd")), takes=_tokens_alone),
    Peer("seqpacker ffd", partial(each, partial(seqpacker_strategy, "ffd")), takes=_tokens_alone),
    Peer("binpacking", partial(each, binpacking_volume), takes=_tokens_alone),
    Peer("next-fit, Python", partial(each, next_fit)),
)
