"""Response bodies, base64 strings and bits to arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benches import vectors
from benches.cases.decode import BitsCase, BodyCase, ParsedCase, TextsCase, VectorsCase
from benches.peers import decode as peers

if TYPE_CHECKING:
    from benches.harness import Case, Scale

PEERS = {
    BodyCase: peers.BODY,
    TextsCase: peers.TEXTS,
    BitsCase: peers.BITS,
    VectorsCase: peers.VECTORS,
    ParsedCase: peers.PARSED,
}


def cases(scale: Scale) -> list[Case]:
    part = {"smoke": 8, "quick": 1, "full": 1}[scale]
    many = vectors.int8_vectors(2, 10_000 // part)
    bits = np.packbits(many >= 0, axis=1, bitorder="little")
    return [
        BodyCase(documents=24 // part, chunks=20),
        BodyCase(documents=24 // part, chunks=20, dimensions=2560),
        BodyCase(documents=24 // part, chunks=20, encoding="base64_binary"),
        BodyCase(documents=512 // part, chunks=31),
        BodyCase(documents=1, chunks=1),
        TextsCase(many),
        TextsCase(many[:1]),
        BitsCase(packs=True, given=many),
        BitsCase(packs=False, given=bits),
        BitsCase(packs=False, given=np.tile(bits, (8, 1))),
        VectorsCase("reverse_bit_order", bits),
        VectorsCase("normalize", many),
        ParsedCase(BodyCase(documents=24 // part, chunks=20), official=True),
        ParsedCase(BodyCase(documents=24 // part, chunks=20), official=False),
    ]


def test_decode(run, measure):
    measure(run)
