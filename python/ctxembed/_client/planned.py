"""A call's plan, and what it ends in: checked and packed before anything is sent, raised or returned after. No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxembed._client.batches import Assembly, Batch
from ctxembed._errors import ClosedClientError, DocumentError, EmbedError, InvalidDocumentsError
from ctxembed._results import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._client.batches import Outcome
    from ctxembed._client.endpoint import Call
    from ctxembed._planning.prepare import Prepared, Problem
    from ctxembed._results import Embeddings

__all__ = ["Plan", "check_on_error", "finish", "is_longer", "keeping", "materialise", "one", "plan_of", "refusals"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A call that is ready to be sent.

    Parameters
    ----------
    call : Call
        What all its requests have in common.
    documents : list of list of str
        All of them.
    offsets : ndarray of int64
        Rows of each document.
    batches : list of Batch
        The planned requests.
    refused : tuple of Failure
        Documents with problems, which are in no batch.
    """

    call: Call
    documents: list[list[str]]
    offsets: NDArray[np.int64]
    batches: list[Batch]
    refused: tuple[Failure, ...] = ()

    @property
    def chunks(self) -> int:
        """Of all documents."""
        return int(self.offsets[-1])

    def assembly(self) -> Assembly:
        """Return where the outcomes go, the refused documents already in it."""
        assembly = Assembly(self.call, self.offsets)
        assembly.failures += self.refused
        return assembly


def finish(assembly: Assembly, on_error: str) -> Embeddings:
    """Return what a call embedded, or raise for what it did not."""
    result = assembly.result()
    if not result.failures or on_error == "return":
        return result
    first = next((failure for failure in result.failures if failure.attempts), result.failures[0])
    message = (
        f"{len(result.failures)} of {len(result)} documents were not embedded (.partial holds the others); "
        f"document {first.document}: {type(first.error).__name__}: {first.error}"
    )
    raise EmbedError(message, result, result.failures) from first.error


@contextlib.contextmanager
def keeping(assembly: Assembly) -> Iterator[None]:
    """Give what ends a call early (Ctrl-C, a cancellation, ``progress``) what had landed, as ``.partial``."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):  # a type that takes no attribute
            error.partial = assembly.interrupted()  # type: ignore[attr-defined]
        raise


def check_on_error(on_error: object) -> None:
    """Refuse what is neither ``"raise"`` nor ``"return"``."""
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be 'raise' or 'return', got {on_error!r}")


def materialise(documents: Iterable[Iterable[str]]) -> Any:
    """Read documents where they belong; what is none of them is for the planner to tell."""
    if type(documents) is not list and (
        isinstance(documents, str | bytes | bytearray | Mapping | AbstractSet) or not isinstance(documents, Iterable)
    ):
        return documents
    return [
        row if type(row) is list or isinstance(row, str) or not isinstance(row, Iterable) else list(row)
        for row in documents
    ]


def is_longer(rows: Any, characters: int) -> bool:
    """Whether documents that were read have more characters; what is none of them is for the planner to tell."""
    total = 0
    try:
        for row in rows:
            total += sum(map(len, row))
            if total > characters:
                return True
    except TypeError:
        pass
    return False


def plan_of(call: Call, prepared: Prepared, on_error: str) -> Plan:
    """Make the requests of what was prepared.

    Raises
    ------
    InvalidDocumentsError
        ``on_error="raise"``, and there are documents that the API would refuse.
    """
    batches = []
    for root, positions in enumerate(prepared.requests):
        documents = [prepared.documents[position] for position in positions.tolist()]
        tokens, estimate = int(prepared.tokens[positions].sum()), prepared.estimate_of(positions)
        batches.append(Batch(documents, positions, tokens, root, estimate=estimate))
    plan = Plan(call, prepared.documents, prepared.offsets, batches, refusals(prepared.problems))
    if plan.refused and on_error == "raise":
        raise invalid(plan, prepared.problems)
    return plan


def refusals(problems: Sequence[Problem]) -> tuple[Failure, ...]:
    """One failure a document that has problems: its first."""
    first: dict[int, Failure] = {}
    for problem in problems:
        error = DocumentError(problem.document, problem.chunk, problem.reason)
        first.setdefault(problem.document, Failure(problem.document, error, 0))
    return tuple(first.values())


def invalid(plan: Plan, problems: Sequence[Problem]) -> InvalidDocumentsError:
    """Make the error that nothing was sent for."""
    assembly = plan.assembly()
    failed = len(plan.refused)
    message = (
        f"nothing was sent: the API would refuse {failed} of {len(plan.documents)} documents; "
        f"{plan.refused[0].error}" + ("" if failed == 1 else f"; ... and {failed - 1} more in .problems")
    )
    return InvalidDocumentsError(message, assembly.result(), plan.refused, tuple(problems))


def one(outcome: Outcome) -> Embeddings:
    """Return a single request's vectors with the usage of all its attempts, or raise its error as it is."""
    if outcome.embeddings is None:
        raise outcome.error if outcome.error is not None else ClosedClientError("the request did not end")
    found = outcome.embeddings
    return found if outcome.usage is found.usage else replace(found, usage=outcome.usage)
