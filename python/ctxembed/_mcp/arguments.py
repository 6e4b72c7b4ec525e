"""The arguments of the tools. Their descriptions are read by an assistant."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["DocumentArguments", "SearchArguments"]


def _parsed(value: Any) -> Any:
    """Parse JSON in a text: some assistants write lists and objects so."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


class _Arguments(BaseModel):
    # An unknown argument is an error: a filter under another name would be ignored otherwise.
    model_config = ConfigDict(extra="forbid")


class SearchArguments(_Arguments):
    """The arguments of ``search``."""

    question: Annotated[str, Field(min_length=1, description="What to look for, as a question or a phrase.")]
    k: Annotated[int, Field(ge=1, le=50, description="How many results.")] = 8
    where: Annotated[
        str | None,
        Field(
            description="An SQL expression that selects documents before they are ranked, with ? for values: "
            '"year >= ? AND lang = ?".',
        ),
    ] = None
    params: Annotated[
        list[str | int | float | bool | None],
        BeforeValidator(_parsed),
        Field(description='The values for the ? in where, in order: [2020, "en"].'),
    ] = []
    by_document: Annotated[bool, Field(description="Rank documents, each by its best chunk.")] = False
    hybrid: Annotated[
        bool, Field(description="Also search the words of the question: for names, codes and rare words.")
    ] = False
    neighbours: Annotated[
        int, Field(ge=0, le=10, description="How many chunks before and after each result its text includes.")
    ] = 0


class DocumentArguments(_Arguments):
    """The arguments of ``get_document``."""

    id: Annotated[str, Field(min_length=1, description="The document's id, as search returns it.")]
    first: Annotated[int, Field(ge=0, description="Number of the first chunk to return, from 0.")] = 0
    limit: Annotated[int, Field(ge=1, le=200, description="How many chunks to return at most.")] = 50
