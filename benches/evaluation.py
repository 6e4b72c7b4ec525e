"""Judged search with the demo model, by `ctxembed eval`: ``python -m benches.evaluation``.

Each corpus is embedded and evaluated by the command that the page shows. ``--folder`` keeps the collections, so that
the next run embeds nothing; ``--write`` writes the record, the page and the plots. Without ``--measure`` they are made
from the record.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed import Usage
from ctxembed._evaluation.plot import draw
from ctxembed._evaluation.result import Evaluation

from benches import run, texts

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = Path(__file__).parent.parent
RECORDS: Final = ROOT / "benches" / "records" / "evaluation"
CORPORA: Final = {"cranfield": "Cranfield", "passages": "Passages of books and manuals"}
INTRODUCTION: Final = (
    "`python -m benches.evaluation --measure --write` makes these records with `ctxembed eval`. The intervals are of "
    "95%, over the queries; `bytes` are those of a vector. Searches a second were measured one after the other, on a "
    "busy machine. [quality.md](quality.md) says what holds, [evaluation.md](evaluation.md) what the columns are."
)
EVERY: Final = 8
"""Of the files with passages, so many apart are taken."""

LONGEST: Final = 400
FEWEST: Final = 4
"""Characters of a passage at most, and passages of a file at least."""


def command(corpus: str, folder: Path | str, data: Path | str) -> list[str]:
    """Return the arguments of ``ctxembed`` that evaluate a corpus."""
    found = ["eval", f"{folder}/{corpus}.ctx", "--data", f"{data}", "--ingest", "--embedder", "demo", "--isolated"]
    return [*found, "--chunk-tokens", "64"] if corpus == "cranfield" else found


def write_passages(folder: Path) -> None:
    """Write passages of every eighth file in the layout of ConTEB. Half of one passage of a file is a query.

    Longer ones are left out: in Chinese and Korean they have more tokens than the demo model reads at once.
    """
    documents, queries = [], []
    for number, (path, found) in enumerate(texts.passage_files()):
        chunks = [chunk for chunk in found if len(chunk) <= LONGEST]
        if number % EVERY or len(chunks) < FEWEST:
            continue
        name, chosen = f"{path.parent.name}-{path.stem}".replace("_", "-"), len(chunks) // 2
        documents += [{"chunk_id": f"{name}_{place}", "chunk": chunk} for place, chunk in enumerate(chunks)]
        queries.append({"query": chunks[chosen][: len(chunks[chosen]) // 2], "chunk_id": f"{name}_{chosen}"})
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "documents.jsonl", documents)
    _write_lines(folder / "queries.jsonl", queries)


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def measure(corpus: str, folder: Path) -> dict[str, Any]:
    """Evaluate a corpus, and return the JSON of the command."""
    data = texts.DATA / "ir" / "cranfield"
    if corpus == "passages":
        data = folder / "passages"
        write_passages(data)
    arguments = [sys.executable, "-m", "ctxembed", *command(corpus, folder, data), "--json"]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, cwd=folder)
    return json.loads(done.stdout)


def plot(record: dict[str, Any]) -> str:
    """Return the plot of a record."""
    found = record["evaluation"]
    title = f"by {found['level']}, {found['queries']:,} queries, {found['model']}"
    return draw(found["table"], "ndcg@10", title, found["confidence"])


def record_of(corpus: str) -> dict[str, Any]:
    """Return the record of a corpus."""
    return json.loads((RECORDS / f"{corpus}.json").read_text(encoding="utf-8"))


def page() -> str:
    """Return the page of all records."""
    parts = [
        "# Judged search with the demo model",
        INTRODUCTION,
    ]
    for corpus, title in CORPORA.items():
        record = record_of(corpus)
        result = evaluation_of(record)
        shown = " ".join(["ctxembed", *command(corpus, ".", record["data"])])
        parts += [
            f"## {title}",
            f"`{shown}`, {record['date']}, {record['machine']['cpu']}.",
            f"![{title}: nDCG@10 against bytes](bench-evaluation-{corpus}.svg)",
            result.to_markdown().strip(),
        ]
    return "\n\n".join(parts) + "\n"


def summary() -> str:
    """Return the table of ``docs/quality.md``: nDCG@10 of each variant and arm, less that of int8 in context."""
    found = {corpus: record_of(corpus)["evaluation"]["table"] for corpus in CORPORA}
    head = ["variant", "bytes"]
    for corpus in CORPORA:
        name = CORPORA[corpus].split()[0]
        head += [f"{name}", "less than int8", "alone"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row in found["cranfield"]:
        if row["arm"] != "context":
            continue
        cells = [f"`{row['variant']}`", f"{row['bytes']:,}"]
        for table in found.values():
            rows = {each["arm"]: each for each in table if each["variant"] == row["variant"]}
            cells += [f"{rows['context']['ndcg@10']:.3f}", _loss(rows["context"]), f"{rows['isolated']['ndcg@10']:.3f}"]
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _loss(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    mean, low, high = row["difference"]["ndcg@10"]
    return f"{0 - round(mean, 3):.3f} ± {(high - low) / 2:.3f}".replace("-", "\u2212")


def worth() -> str:
    """Return what context is worth, for ``docs/quality.md``."""
    lines = []
    for corpus, title in CORPORA.items():
        lines += [f"- {title}, {sentence}." for sentence in record_of(corpus)["evaluation"]["sentences"][:1]]
    return "\n".join(lines) + "\n"


def insert(text: str) -> str:
    """Return the text of ``docs/quality.md`` with the parts that come from the records."""
    for name, part in (("table", summary()), ("worth", worth())):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{part}{end}{rest.partition(end)[2]}"
    return text


def evaluation_of(record: dict[str, Any]) -> Evaluation:
    """Return the evaluation that a record holds, without the values of each query."""
    fields = {name: value for name, value in record["evaluation"].items() if name not in ("usage", "sentences")}
    table = [{**row, "usd": None if row["usd"] is None else Decimal(row["usd"])} for row in fields["table"]]
    shown = {**fields, "table": table, "k": tuple(fields["k"]), "notes": tuple(fields["notes"])}
    return Evaluation(**shown, usage=Usage())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.evaluation")
    parser.add_argument("--measure", action="store_true", help="run the evaluations; else use the records")
    parser.add_argument("--corpus", action="append", choices=[*CORPORA], help="only this one; may be repeated")
    parser.add_argument("--folder", type=Path, help="keep the collections here")
    parser.add_argument("--write", action="store_true", help="write the records, the page and the plots")
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (options.folder or Path(temporary)).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            for corpus in options.corpus or CORPORA:
                record = {
                    "format": 1,
                    "date": datetime.now(UTC).date().isoformat(),
                    "machine": run.machine(),
                    "data": "../shared/data/ir/cranfield" if corpus == "cranfield" else "passages",
                    "evaluation": measure(corpus, folder),
                }
                if options.write:
                    RECORDS.mkdir(parents=True, exist_ok=True)
                    text = re.sub(r"\n {4,}", " ", json.dumps(record, indent=1))
                    (RECORDS / f"{corpus}.json").write_text(text + "\n", encoding="utf-8")
                else:
                    print(evaluation_of(record))
    if options.write and all((RECORDS / f"{corpus}.json").is_file() for corpus in CORPORA):
        for corpus in CORPORA:
            (ROOT / "docs" / f"bench-evaluation-{corpus}.svg").write_text(plot(record_of(corpus)), encoding="utf-8")
        (ROOT / "docs" / "benchmarks-evaluation.md").write_text(page(), encoding="utf-8")
        quality = ROOT / "docs" / "quality.md"
        quality.write_text(insert(quality.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
