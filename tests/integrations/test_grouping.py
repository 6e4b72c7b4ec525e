"""Chunks are put back into their documents, whatever order they come in, or refused. No framework is needed."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from ctxembed import ChunkOrderError
from ctxembed.integrations._grouping import Group, Names, Place, check_order, group
from hypothesis import given
from hypothesis import strategies as st

NAMES = Names("chunk", "source", "start_index")
FRAMEWORKS = {"langchain": "langchain_core", "llama_index": "llama_index.core", "haystack": "haystack"}

lengths = st.lists(st.lists(st.integers(5, 400), min_size=1, max_size=8), min_size=1, max_size=6)


def laid_out(documents, gap=1):
    """Return the places of chunks of these lengths, with a gap between them, by (document, chunk)."""
    places = {}
    for number, sizes in enumerate(documents):
        start = 0
        for chunk, size in enumerate(sizes):
            places[number, chunk] = Place(f"d{number}", start, start + size, id=f"{number}/{chunk}")
            start += size + gap
    return places


def linked(places):
    """Return places with links in place of positions."""
    found = {}
    for (number, chunk), place in places.items():
        previous, after = places.get((number, chunk - 1)), places.get((number, chunk + 1))
        found[number, chunk] = Place(
            place.document, id=place.id, previous=previous and previous.id, next=after and after.id
        )
    return found


@given(lengths, st.booleans(), st.data())
def test_any_order_gives_each_document_in_its_order(documents, by_links, data):
    places = laid_out(documents)
    if by_links and all(len(sizes) > 1 for sizes in documents):
        places = linked(places)
    order = data.draw(st.permutations(list(places)))
    groups = group([places[key] for key in order], NAMES)
    assert {found.document: [order[member] for member in found.members] for found in groups} == {
        f"d{number}": [(number, chunk) for chunk in range(len(sizes))] for number, sizes in enumerate(documents)
    }
    firsts = [min(found.members) for found in groups]
    assert firsts == sorted(firsts)


@given(lengths, st.booleans(), st.data())
def test_a_chunk_that_is_missing_is_never_overlooked(documents, by_links, data):
    """Except the last ones by places, and one as short as the white space that splitters leave out."""
    places = laid_out(documents)
    number = data.draw(st.integers(0, len(documents) - 1))
    sizes = documents[number]
    if len(sizes) < 2:
        return
    missing = data.draw(st.integers(0, len(sizes) - (1 if by_links else 2)))
    if by_links:
        places = linked(places)
    elif sizes[missing] + 2 <= max(4, min(100, max(sizes) // 8)):
        return
    del places[number, missing]
    with pytest.raises(ChunkOrderError) as caught:
        group(list(data.draw(st.permutations(list(places.values())))), NAMES)
    assert caught.value.document == f"d{number}"


@given(lengths, st.data())
def test_two_chunks_at_one_place_are_never_overlooked(documents, data):
    places = laid_out(documents)
    again = data.draw(st.sampled_from(list(places.values())))
    with pytest.raises(ChunkOrderError, match=f"two chunks have start_index {again.start}") as caught:
        group(list(data.draw(st.permutations([*places.values(), again]))), NAMES)
    assert (caught.value.document, caught.value.place) == (again.document, again.start)


@pytest.mark.parametrize(("size", "gap"), [(10, 4), (100, 12), (400, 50), (4000, 100)])
def test_white_space_between_chunks_is_no_gap(size, gap):
    spans = [(gap, gap + size), (size + 2 * gap, 2 * size + 2 * gap)]
    check_order("a", spans, "start_index")
    with pytest.raises(ChunkOrderError, match=f"which ends at {gap + size}, comes start_index {size + 2 * gap + 1}"):
        check_order("a", [spans[0], (size + 2 * gap + 1, 2 * size + 2 * gap + 1)], "start_index")
    with pytest.raises(ChunkOrderError, match="its first chunk is missing"):
        check_order("a", [(gap + 1, gap + 1 + size)], "start_index")


def test_a_chunk_inside_another_hides_no_gap():
    check_order("a", [(0, 100), (20, 40), (101, 200)], "start_index")
    with pytest.raises(ChunkOrderError, match="a chunk is missing"):
        check_order("a", [(0, 100), (20, 40), (150, 250)], "start_index")


def test_chunks_that_are_known_to_be_neighbours_may_lie_apart():
    spans = [(0, 10), (500, 510), (900, 910)]
    check_order("a", spans, "start_index", adjacent={(0, 500), (500, 900)})
    with pytest.raises(ChunkOrderError, match="start_index 900"):
        check_order("a", spans, "start_index", adjacent={(0, 500)})


def test_chunks_without_a_document_stand_alone_where_that_was_said():
    places = [Place(None), Place("a", 0, 3), Place(None)]
    assert group(places, NAMES, isolated=True) == [Group(None, [0]), Group("a", [1]), Group(None, [2])]
    with pytest.raises(ValueError, match=r"chunk 0 has no source, and the-model embeds chunks.*isolated=True"):
        group(places, NAMES, model="the-model")
    assert group([], NAMES) == []


def test_the_error_pickles():
    error = pickle.loads(pickle.dumps(ChunkOrderError("a.txt", 100, "two chunks have start_index 100")))
    assert (error.document, error.place, error.code) == ("a.txt", 100, "CTX-024")
    assert str(error) == "document 'a.txt': two chunks have start_index 100"


@pytest.mark.parametrize(("name", "package"), FRAMEWORKS.items())
def test_a_missing_framework_is_an_error_that_names_the_extra(name, package):
    code = f"import sys; sys.modules[{package!r}] = None; import ctxembed.integrations.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    extra = name.replace("_", "-")
    message = f"ctxembed.integrations.{name} needs {package.partition('.')[0]}: pip install 'ctxembed[{extra}]'"
    assert done.returncode == 1
    assert done.stderr.endswith(f"ModuleNotFoundError: {message}\n")


def test_no_framework_is_imported_before_it_is_used():
    code = (
        "import sys, ctxembed, ctxembed.integrations, ctxembed.integrations._embedding\n"
        "print({'langchain_core', 'llama_index', 'haystack'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60) == "set()\n"
