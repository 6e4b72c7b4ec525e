"""Fault injection.

``fault`` describes a fault, ``plan`` chooses the fault of each request, and ``rows`` and ``response`` apply it.
"""

from __future__ import annotations

from ctxembed._server.faults.fault import NAMED, NO_FAULT, Fault, fault_label, parse_fault

__all__ = ["NAMED", "NO_FAULT", "Fault", "fault_label", "parse_fault"]
