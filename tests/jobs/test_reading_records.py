"""JSON Lines, JSON arrays, CSV and Parquet: each record is a document, or is rejected with its place."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ctxembed import _core
from ctxembed._jobs.reading import InputDocument, ReadOptions, Rejected, files, json_lines, open_inputs
from ctxembed._jobs.reading.json_lines import ArrayError, array_elements
from ctxembed._jobs.reading.records import Records
from ctxembed._jobs.reading.tables import read_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jobs.conftest import documents, read, rejected
from tests.samples import SHARED

RECORD = {"id": "a", "chunks": ["one", "two"], "year": 2020, "tags": ["x", {"y": None}], "source": "https://a"}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_record_has_chunks_or_a_text_and_all_else_is_metadata(write):
    text = "First sentence. " * 40
    name = write("a.jsonl", lines(RECORD, {"id": 7, "text": text}))
    first, second = documents(name, chunk_tokens=50)
    metadata = {"year": 2020, "tags": ["x", {"y": None}]}
    assert first == InputDocument("a", ["one", "two"], metadata, None, "https://a", "a.jsonl, line 1")
    assert (second.id, second.metadata, second.source, second.place) == ("7", None, None, "a.jsonl, line 2")
    assert len(second.chunks) > 1
    assert [text[start:end] for start, end in second.spans] == second.chunks


def test_fields_can_have_other_names(write):
    record = {"doc": "a", "parts": ["one"], "body": None, "lang": "en", "year": 1}
    options = {"id_field": "doc", "chunks_field": "parts", "text_field": "body", "metadata_fields": ("year", "absent")}
    (document,) = documents(write("a.jsonl", lines(record)), **options)
    assert (document.id, document.chunks, document.metadata) == ("a", ["one"], {"year": 1})


def test_empty_chunks_are_left_to_the_job(write):
    found = documents(write("a.jsonl", lines({"id": "", "chunks": []}, {"id": "b", "chunks": [""]})))
    assert [document.chunks for document in found] == [[], [""]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "-"])
def test_blank_lines_and_byte_order_marks_are_skipped(write, name):
    content = b'\xef\xbb\xbf{"id": "a", "chunks": ["one"]}\r\n\r\n  \n {"id": "b", "chunks": ["two"]} \n\xef\xbb\xbf\n'
    content += b'{"id": "c", "chunks": ["three"]}'
    stdin = None if name != "-" else io.BytesIO(content)
    found = documents(name if stdin else write(name, content), stdin=stdin)
    where = "stdin" if stdin else name
    assert [document.place for document in found] == [f"{where}, line {n}" for n in (1, 4, 6)]


BAD_RECORDS = [
    ("[1]", "this is a JSON array; expected JSON Lines"),
    ('"a"', 'expected .*; got "a"'),
    ('{"chunks": ["x"]}', "id is missing"),
    ('{"id": true, "chunks": ["x"]}', "id must be a string or an integer, got true"),
    ('{"id": 1.5, "chunks": ["x"]}', "id must be a string or an integer, got 1.5"),
    ('{"id": "a"}', "has neither chunks nor text"),
    ('{"id": "a", "chunks": ["x"], "text": "x"}', "has both chunks and text"),
    ('{"id": "a", "chunks": "x"}', 'chunks must be a list of strings, got "x"'),
    ('{"id": "a", "chunks": ["x", 2]}', "chunk 1 must be a string, got 2"),
    ('{"id": "a", "text": ["x"]}', 'text must be a string, got \\["x"\\]'),
    ('{"id": "a", "text": " \\n"}', "text has no text"),
    ('{"id": "a", "text": "x\\ud800"}', "text: text has a lone surrogate, U\\+D800, at character 1"),
    ('{"id": "a\\ud800", "chunks": ["x"]}', "the id .* has a lone surrogate"),
    ('{"id": "a", "chunks": ["x"], "source": 3}', "source must be a string, got 3"),
    ('{"id": "a", "chunks": ["x"], "score": NaN}', "metadata field 'score' holds nan"),
    ('{"id": "a", "chunks": ["x"], "score": {"a": [1e999]}}', "metadata field 'score' holds inf"),
    ('{"id": "a", "chunks": ["x"], "b": {"c\\udc00": 1}}', "metadata has a lone surrogate"),
    ('{"id": "a", "chunks": ["x"]', "not JSON: .* at column 28 .the line ends there"),
    ('{"id": "a" "chunks": ["x"]}', "not JSON: Expecting ',' delimiter at column 12"),
    ('{"id": "a", "chunks": ["x"]} {}', "not JSON: Extra data at column 30"),
    ('{"id": "a", "chunks": ' + "[" * 100_000, "nested too deep"),
    ('{"id": ' + "1" * 5000 + "}", "too many digits"),
    (b'{"id": "\xff"}', "not UTF-8 at byte 8 of the line"),
    (b'\xef\xbb\xbf{"id": "\xff"}', "not UTF-8 at byte 11 of the line"),
]


@pytest.mark.parametrize(("line", "words"), BAD_RECORDS)
def test_a_line_that_is_not_a_document_is_rejected_alone(write, line, words):
    good = b'{"id": "good", "chunks": ["x"]}'
    line = line.encode() if isinstance(line, str) else line
    first, second, third = read(write("a.jsonl", b"\n".join([good, line, good])))
    assert isinstance(first, InputDocument)
    assert isinstance(third, InputDocument)
    assert isinstance(second, Rejected)
    assert second.place == "a.jsonl, line 2"
    with pytest.raises(ValueError, match=words):
        raise ValueError(second.reason)


# --- plain records ---

READER = _core.RecordReader("id", "chunks", "text")
JSON_FILES = sorted((SHARED / "jsontestsuite").rglob("*.json"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(),
    lambda value: st.lists(value) | st.dictionaries(st.text(), value),
    max_leaves=8,
)


def expected_of(record):
    others = {key: value for key, value in record.items() if key not in ("id", "chunks", "source")}
    return str(record["id"]), record["chunks"], others or None, record.get("source")


def same_types(a, b):
    """Return whether values are equal with the types of all their parts: True equals 1 in Python."""
    return repr(a) == repr(b)


@given(
    st.integers(-(1 << 70), 1 << 70) | st.text(),
    st.lists(st.text(), max_size=3),
    st.dictionaries(st.text() | st.sampled_from(["source", "text", "id"]), VALUES, max_size=4),
    st.booleans(),
)
def test_the_core_reads_a_record_as_python_does_or_leaves_it(name, chunks, others, ascii_only):
    record = {"id": name, "chunks": chunks, **others}
    line = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = READER.read(line)
    if found is not None:
        assert same_types(found, expected_of(json.loads(line)))
        assert found[0]
        assert found[1]
        assert "" not in found[1]
        assert "text" not in others


@pytest.mark.parametrize("path", JSON_FILES, ids=lambda path: path.name)
def test_the_core_takes_no_value_that_python_refuses(path):
    line = b'{"id": "a", "chunks": ["b"], "value": ' + path.read_bytes() + b"}"
    found = READER.read(line)
    if path.name.startswith("n_"):
        assert found is None
    if found is not None:
        assert same_types(found[2], {"value": json.loads(path.read_bytes())})


def test_the_core_reads_records_of_metadata():
    record = {"id": 7, "chunks": ["ä\n", "b"], "source": "s", "a": [1, None, {"b": [True, "\u1234"]}], "c": -3}
    assert READER.read(json.dumps(record).encode() + b"\r\n") == expected_of(record)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b'\xef\xbb\xbf{"id": "a", "chunks": ["b"]}',
        b'{"id": "", "chunks": ["b"]}',
        b'{"id": "a", "chunks": []}',
        b'{"id": "a", "chunks": [""]}',
        b'{"id": "a", "chunks": ["b"], "id": "c"}',
        b'{"id": "a", "chunks": ["b"], "chunks": ["c"]}',
        b'{"id": "a", "chunks": ["b"], "text": "c"}',
        b'{"id": "a", "chunks": ["b"], "source": null}',
        b'{"id": "a", "chunks": ["b"], "number": 1.5}',
        b'{"id": "a", "chunks": ["b"], "number": 123456789012345678901}',
        b'{"id": "a", "chunks": ["b"], "c": "\\ud800"}',
        b'{"id": "a", "chunks": ["b"]} {}',
    ],
)
def test_what_is_no_plain_record_is_left_to_python(line):
    assert READER.read(line) is None


def test_a_rejected_record_has_its_id(write):
    assert rejected(write("a.jsonl", lines({"id": 5, "chunks": 3}))).id == "5"


def test_a_metadata_field_cannot_be_named_id(write):
    name = write("a.jsonl", lines({"id": 1, "doc": "a", "chunks": ["x"]}))
    assert "metadata field cannot be named id, and doc is the id" in rejected(name, id_field="doc").reason
    assert documents(name, id_field="doc", metadata_fields=())[0].id == "a"


def test_a_long_line_is_rejected_without_holding_it(write, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_RECORD", 1000)
    name = write("a.jsonl", lines({"id": "a", "chunks": ["x" * 2_000_000]}, RECORD))
    inputs = open_inputs([name], ReadOptions())
    first, second = inputs
    assert (first.place, "longer than" in first.reason) == ("a.jsonl, line 1", True)
    assert (second.id, second.place) == ("a", "a.jsonl, line 2")
    assert inputs.bytes_read == inputs.total_bytes


@pytest.mark.parametrize("content", ["[\n{},\n{}]", "[]", '[{"id": "a", "chunks": ["x"]}]'])
def test_an_array_in_json_lines_is_named_as_one(write, content):
    assert "JSON array; expected JSON Lines" in rejected(write("a.jsonl", content)).reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.md"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf16_is_rejected_once(write, name, encoding):
    assert "UTF-16" in rejected(write(name, ("a\n" * 9).encode(encoding))).reason


# --- JSON arrays ---


def test_a_json_array_is_read_as_records(write):
    (first, second) = documents(write("a.json", "\ufeff\n" + json.dumps([RECORD, {"id": 2, "text": "x"}], indent=1)))
    assert (first.id, first.place, second.id, second.place) == ("a", "a.json, row 1", "2", "a.json, row 2")


def test_an_error_in_an_array_ends_it_with_its_line_and_column(write):
    first, second = read(write("a.json", '[{"id": "a", "chunks": ["x"]},\n {"id": "b" 1}, {}]'))
    assert first.id == "a"
    assert (second.place, second.reason) == ("a.json, line 2", "not JSON: Expecting ',' delimiter at column 13")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"id": "a", "chunks": ["x"]}', "Expecting ',' delimiter at column 30"),
        (b'[{"id": "a", "chunks": ["x"]},]', "Expecting value at column 31"),
        (b'[{"id": "a", "chunks": ["x"]}] 1', "Extra data after the array at column 32"),
        (b'[{"id": "a", "chunks": ["x"]}, "\xff"]', "not UTF-8 at byte 32"),
        (b'[{"id": "a", "chunks": ["x"]}, ' + b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_damaged_array_is_rejected_at_its_error(write, content, words):
    items = read(write("a.json", content))
    assert words in items[-1].reason
    assert all(isinstance(item, InputDocument) for item in items[:-1])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def cut(text, sizes):
    """Cut a text into pieces of the sizes in turn."""
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        yield text[at : at + size]
        at, turn = at + size, turn + 1


@settings(max_examples=300, deadline=None)
@given(
    st.lists(VALUES, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from([None, 1]), st.booleans(),
)  # fmt: skip
def test_elements_equal_those_of_json_loads_however_the_text_is_cut(values, sizes, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    assert [*array_elements(cut(text, sizes))] == json.loads(text)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(VALUES, max_size=4).map(json.dumps), st.data(), st.lists(st.integers(1, 40), min_size=1, max_size=4),
)  # fmt: skip
def test_a_damaged_text_is_an_error_exactly_where_json_loads_has_one(text, data, sizes):
    at = data.draw(st.integers(0, len(text)))
    text = (
        text[:at]
        + data.draw(st.text('[]{},:"\\0123.eE-+ntu\n\r a', max_size=2))
        + text[at + data.draw(st.integers(0, 2)) :]
    )
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        expected = None
    if isinstance(expected, list):
        assert [*array_elements(cut(text, sizes))] == expected
    else:
        with pytest.raises(ArrayError):
            list(array_elements(cut(text, sizes)))


def test_an_element_that_is_too_long_is_an_error(monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_RECORD", 1000)
    with pytest.raises(ArrayError, match="longer than"):
        list(array_elements(cut('["' + "x" * 10_000 + '"]', [100])))


# --- CSV ---


def test_rows_of_csv_are_documents(write):
    content = (
        'id,text,chunks,year,source,\r\n1,"one, ""quoted""\r\nnext line",,2020,s,0\r\n\r\nb,,"[""x"", ""y""]",,,1\r\n'
    )
    first, second = documents(write("a.csv", "\ufeff" + content))
    assert first == InputDocument(
        "1", ['one, "quoted"\r\nnext line'], {"year": "2020"}, [(0, 24)], "s", "a.csv, row 1"
    )  # fmt: skip
    assert second == InputDocument("b", ["x", "y"], {"year": ""}, None, None, "a.csv, row 2")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_csv_may_end_in_any_way(write, end):
    content = end.join(["id\ttext", "a\tone", "b\ttwo", ""])
    assert [document.chunks for document in documents(write("a.tsv", content))] == [["one"], ["two"]]


def test_a_cell_of_csv_may_be_long(write):
    (document,) = documents(write("a.csv", "id,text\na," + "word " * 100_000))
    assert len(document.chunks) > 100


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        ("b,two,3", "row 2", "has 3 fields, and the header 2"),
        ("b", "row 2", "has 1 fields, and the header 2"),
        (",two", "row 2", "id is missing"),
        ("b,", "row 2", "has neither chunks nor text"),
        ('b,"two"2', "row 2", "not CSV: ',' expected after '\"'"),
    ],
)
def test_a_wrong_row_of_csv_is_rejected_alone(write, row, place, words):
    first, second, third = read(write("a.csv", f"id,text\na,one\n{row}\nc,three\n"))
    assert (first.id, third.id) == ("a", "c")
    assert (second.place, words in second.reason) == (f"a.csv, {place}", True)


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (b"id,text\na,one\nb,\xff\nc,three", "a.csv, line 3", "not UTF-8 at byte 16"),
        (b"id,text\na,\0\n", "a.csv, line 2", "not text: a NUL at byte 10"),
        (b"id,text,text\na,b,c\n", "a.csv", "the header names 'text' more than once"),
        (b'id,text\na,"one\n', "a.csv, row 1", "not CSV: unexpected end of data"),
        (b"id,chunks\na,x\n", "a.csv, row 1", "chunks must be a JSON list of strings, got 'x'"),
    ],
)
def test_damaged_csv_is_rejected(write, content, place, words):
    found = rejected(write("a.csv", content))
    assert (found.place, words in found.reason) == (place, True), found


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CELLS | st.sampled_from(["\r", "\n", "\r\n", '"', ","]), min_size=2, max_size=2), max_size=5))
def test_cells_of_csv_are_read_as_they_were_written(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([["id", "chunks", "a", "b"], *(["x", "[]", *row] for row in rows)])
    options = ReadOptions()
    content = io.BytesIO(stream.getvalue().encode())
    items = [*read_csv(content, "a.csv", Records(options), options, files.BytesRead(), delimiter=",")]
    assert [[item.metadata["a"], item.metadata["b"]] for item in items] == rows


# --- Parquet ---


def table(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


def test_rows_of_parquet_are_documents_with_json_values(tmp_path):
    when = datetime(2024, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    path = table(
        tmp_path,
        id=["a", "b"],
        chunks=[["x", "y"], None],
        text=[None, "z"],
        day=[date(2024, 1, 2), None],
        when=[when, when],
        exact=pa.array([1, 1_700_000_000_000_000_001], pa.timestamp("ns")),
        price=[Decimal("1.50"), Decimal("2.00")],
        nested=[{"a": [1, None]}, None],
        flag=[True, False],
    )
    first, second = documents(path)
    assert first.place == f"{path}, row 1"
    assert (first.chunks, first.spans, second.chunks, second.spans) == (["x", "y"], None, ["z"], [(0, 1)])
    assert first.metadata == {
        "day": "2024-01-02", "when": "2024-02-03T04:05:06.000007+00:00", "exact": "1970-01-01T00:00:00.000000001",
        "price": "1.50", "nested": {"a": [1, None]}, "flag": True,
    }  # fmt: skip
    assert second.metadata["exact"] == "2023-11-14T22:13:20.000000001"
    json.dumps([first.metadata, second.metadata])


def test_numbers_are_ids_in_parquet(tmp_path):
    assert documents(table(tmp_path, id=[5], text=["x"]))[0].id == "5"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": ["a"], "text": ["x"], "raw": [b"x"]}, "column 'raw' has bytes values"),
        ({"id": ["a"], "text": ["x"], "score": [float("nan")]}, "metadata field 'score' holds nan"),
        ({"id": [1.0], "text": ["x"]}, "id must be a string or an integer, got 1.0"),
        ({"name": ["a"], "text": ["x"]}, "id is missing"),
    ],
)
def test_a_row_of_parquet_that_is_not_a_document_is_rejected(tmp_path, columns, words):
    path = table(tmp_path, **columns)
    found = rejected(path)
    assert (found.place, words in found.reason) == (f"{path}, row 1", True), found


def test_columns_of_no_use_are_not_read(tmp_path):
    path = table(tmp_path, id=["a"], text=["x"], raw=[b"x"], year=[1])
    assert documents(path, metadata_fields=("year",))[0].metadata == {"year": 1}


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "middle"])
def test_a_damaged_parquet_file_is_rejected(tmp_path, write, damage):
    path = table(tmp_path, id=[str(i) for i in range(5000)], text=[f"text {i * i}" for i in range(5000)])
    content = (tmp_path / "a.parquet").read_bytes()
    content = {
        "empty": b"", "text": b"id,text\n", "cut": content[:-100],
        "middle": content[:2000] + b"\xff" * 3000 + content[5000:],
    }[damage]  # fmt: skip
    (tmp_path / "a.parquet").write_bytes(content)
    found = rejected(path)
    assert "damaged, or not Parquet" in found.reason
    assert found.place.startswith(path)


def test_progress_reaches_the_size_of_all_files(write, tmp_path):
    names = [
        write("a.jsonl", lines(RECORD) * 50),
        write("b.json", json.dumps([RECORD] * 50)),
        write("c.csv", "id,text\na,b\n" * 50),
        *(write("d.txt"), write("e.md"), write("f.html", "<p>x")),
        table(tmp_path, id=["a"] * 3000, text=["x"] * 3000),
    ]
    inputs = open_inputs(names, ReadOptions())
    assert inputs.position is None
    sizes = []
    for item in inputs:
        assert inputs.position == item.place
        sizes.append(inputs.bytes_read)
    assert sizes == sorted(sizes)
    assert inputs.bytes_read == inputs.total_bytes > 0


def test_memory_does_not_grow_with_the_input(write):
    import tracemalloc

    row = json.dumps({"id": "a", "chunks": ["x" * 500]})
    names = [write("a.jsonl", (row + "\n") * 20_000), write("b.json", "[" + ",".join([row] * 20_000) + "]")]
    for name in names:
        tracemalloc.start()
        try:
            assert sum(1 for _ in open_inputs([name], ReadOptions())) == 20_000
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 6 * files.MAX_RECORD // 64  # 6 MiB, of files of 10
