"""The options of a job, as the methods of a collection take them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ctxembed._models import as_int

if TYPE_CHECKING:
    from ctxembed._jobs.ingest import IngestOptions

__all__ = ["job_options"]


def job_options(max_cost_usd: Any, max_errors: object, max_wait: object, **switches: object) -> IngestOptions:
    """Return the options of a job, checked."""
    from ctxembed._jobs.ingest import IngestOptions

    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {value!r:.100}")
    most = None
    if max_errors is not None:
        most = as_int("max_errors", max_errors)
        if most < 0:
            raise ValueError(f"max_errors must be at least 0, got {most}")
    if isinstance(max_wait, bool) or not isinstance(max_wait, int | float):
        raise TypeError(f"max_wait must be seconds, got {max_wait!r:.100}")
    if not 0 <= max_wait < math.inf:
        raise ValueError(f"max_wait must be finite and at least 0, got {max_wait}")
    return IngestOptions(
        max_cost_usd=max_cost_usd,
        max_errors=most,
        max_wait=float(max_wait),
        **{name: bool(value) for name, value in switches.items()},
    )
