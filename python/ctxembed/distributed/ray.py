"""Embed datasets and search sharded indexes with Ray (``pip install 'ctxembed[ray]'``).

Ray is imported when something here is first used, and is never started: call ``ray.init`` first, or Ray starts itself
with its own defaults.
"""

from __future__ import annotations

from ctxembed._collection.journal_folder import JournalFolder
from ctxembed.distributed.ray_dataset import embed
from ctxembed.distributed.ray_limiter import RayLimiter
from ctxembed.distributed.sharded_index import PartialResult, ShardedIndex

__all__ = ["JournalFolder", "PartialResult", "RayLimiter", "ShardedIndex", "embed"]
