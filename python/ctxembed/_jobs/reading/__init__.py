"""Reads documents from files of several kinds, as a stream."""

from ctxembed._jobs.reading.documents import InputDocument, ReadOptions, Rejected
from ctxembed._jobs.reading.folder import Skipped
from ctxembed._jobs.reading.inputs import Inputs, open_inputs

__all__ = ["InputDocument", "Inputs", "ReadOptions", "Rejected", "Skipped", "open_inputs"]
