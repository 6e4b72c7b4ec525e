"""Contextualized embeddings: decode, search, pack, and a client that loses nothing."""

from ctxembed._codec import decode_response
from ctxembed._core import (
    __version__,
    decode_base64,
    encode_base64,
    normalize,
    pack_bits,
    reverse_bit_order,
    truncate,
    unpack_bits,
)
from ctxembed._embeddings import Embeddings, Failure, Usage
from ctxembed._errors import *  # noqa: F403  (the tree's __all__)
from ctxembed._models import Limits, Model, get_model, models, register_model
