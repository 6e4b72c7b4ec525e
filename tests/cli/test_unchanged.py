"""What was read before and is unchanged is recognised by its bytes, and not read again."""

from __future__ import annotations

import json

import pytest
from ctxembed import Collection


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "documents.jsonl"
    write(path, [{"id": f"d{n}", "chunks": [f"chunk {n}"], "year": 2000 + n} for n in range(50)])
    return path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def records_of(path):
    with Collection.open(path, read_only=True) as collection:
        return dict(collection._current().query("SELECT id, record FROM documents"))


def last_line(run):
    return run.stderr.splitlines()[-1]


@pytest.fixture
def parsed(monkeypatch):
    """The records that are parsed, by their line. The commands run in this process."""
    from ctxembed._jobs.reading.records import Records

    found, read_plain = [], Records.read_plain

    def recorded(self, line, place, digest):
        found.append(line)
        return read_plain(self, line, place, digest)

    monkeypatch.setattr(Records, "read_plain", recorded)
    return found


@pytest.fixture
def embed(server, monkeypatch, capsys):
    from ctxembed.__main__ import main

    monkeypatch.setenv("PERPLEXITY_API_KEY", "key-for-tests")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ctxembed", "embed", *map(str, arguments), "--base-url", server.base_url])
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main())
        return ended.value.code or 0, capsys.readouterr().err.strip().splitlines()[-1]

    return run


def test_only_the_first_and_the_changed_records_are_parsed_again(embed, parsed, lines, tmp_path):
    path = tmp_path / "a.ctx"
    assert embed(lines, path)[0] == 0
    assert len(parsed) == 50
    parsed.clear()
    code, last = embed(lines, path)
    assert (code, len(parsed)) == (0, 1)
    assert "0 added, 50 unchanged (nothing was sent)" in last
    records = read(lines)
    records[20]["year"] = 1900
    records[30]["chunks"] = ["other"]
    write(lines, [*records, {"id": "new", "chunks": ["new"]}])
    parsed.clear()
    code, last = embed(lines, path)
    assert "1 added, 2 updated, 48 unchanged" in last
    assert {json.loads(line)["id"] for line in parsed} >= {"d0", "d20", "d30", "new"}
    assert len(parsed) <= 7
    with Collection.open(path, read_only=True) as collection:
        assert collection.get("d20").metadata == {"year": 1900}
        assert collection.get("d30").chunks == ["other"]


def test_another_way_to_read_reads_all(embed, parsed, lines, tmp_path):
    path = tmp_path / "a.ctx"
    embed(lines, path)
    parsed.clear()
    _, last = embed(lines, path, "--metadata-field", "year", "--metadata-field", "lang")
    assert "50 unchanged" in last
    assert len(parsed) == 50
    parsed.clear()
    embed(lines, path, "--metadata-field", "year", "--metadata-field", "lang")
    assert len(parsed) == 1
    _, last = embed(lines, path, "--metadata-field", "lang")
    assert "50 updated" in last


def test_documents_without_a_record_get_one(embed, parsed, lines, tmp_path):
    path = tmp_path / "a.ctx"
    embed(lines, path)
    before = records_of(path)
    with Collection.open(path) as collection, collection._store._write() as connection:
        connection.execute("UPDATE documents SET record = NULL")
    embed(lines, path)
    assert records_of(path) == before


def test_a_line_that_comes_twice_is_an_error_that_names_it(embed, lines, tmp_path):
    path = tmp_path / "a.ctx"
    embed(lines, path)
    records = read(lines)
    write(lines, [*records[:10], records[9], *records[10:]])
    code, last = embed(lines, path)
    assert code == 1
    assert f"{lines}, line 11: the id 'd9' came twice" in last


def test_records_in_another_order_are_found(embed, lines, tmp_path):
    path = tmp_path / "a.ctx"
    embed(lines, path)
    write(lines, read(lines)[::-1])
    assert "50 unchanged (nothing was sent)" in embed(lines, path)[1]


def test_pruning_counts_what_was_recognised(embed, lines, tmp_path):
    path = tmp_path / "a.ctx"
    embed(lines, path)
    write(lines, read(lines)[:30])
    _, last = embed(lines, path, "--prune")
    assert "30 unchanged, 20 deleted" in last


def test_files_are_recognised_by_name_and_content(embed, monkeypatch, tmp_path):
    folder, path = tmp_path / "texts", tmp_path / "a.ctx"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.md").write_text(f"# Text {number}\n\nSome words.\n")
    embed(folder, path)
    import ctxembed._jobs.reading.documents as reading

    cut, chunk_spans = [], reading.chunk_spans
    monkeypatch.setattr(reading, "chunk_spans", lambda text, *args: cut.append(text) or chunk_spans(text, *args))
    assert "6 unchanged (nothing was sent)" in embed(folder, path)[1]
    assert len(cut) == 1
    (folder / "3.md").rename(folder / "9.md")
    (folder / "4.md").write_text("Other words.\n")
    _, last = embed(folder, path, "--prune")
    assert "1 added, 1 updated, 4 unchanged, 1 deleted" in last
    cut.clear()
    assert "6 unchanged" in embed(folder, path, "--chunk-tokens", "100")[1]
    assert len(cut) == 6


def test_a_token_counter_is_part_of_how_texts_are_read(tmp_path):
    from ctxembed._jobs.reading import ReadOptions
    from ctxembed._jobs.reading.known import KnownRecords

    def record(counter):
        known = KnownRecords(ReadOptions(token_counter=counter))
        known.use(lambda _: None)
        return known.look_up(b"content")[0]

    assert record(None) is not None
    assert record(lambda texts: [len(text) for text in texts]) is None
