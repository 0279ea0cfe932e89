"""A small labeled data set of its own, and the same data in every format that suites are read from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

PAIRS = [
    ("The ferry leaves at noon.", "At twelve the ferry departs.", 5.0, "travel"),
    ("The ferry leaves at noon.", "The ferry leaves at nine.", 3.0, "travel"),
    ('She said "maybe", then left.', "She was undecided and went away.", 4.0, "talk"),
    ('She said "maybe", then left.', "Rye bread needs a long rise.", 0.0, "talk"),
    ("Rye bread needs a long rise.", "Dough of rye rests for hours.", 4.5, "food"),
    ("Rye bread needs a long rise.", "Cake is sweet, bread is not.", 1.5, "food"),
]
CORPUS = [
    ("d1", "Ferries", "Boats to the island sail every two hours from the north pier.", "travel"),
    ("d2", "", "The night train has sleeping cars on weekdays only.", "travel"),
    ("d10", "Rye", "A sourdough of rye flour rises for eight hours.", "food"),
    ("d3", "Beans", "Soak beans overnight, then simmer them for an hour.", "food"),
    ("d4", "Meetings", "The board meets on the first Monday of the month.", "talk"),
    ("d5", "Minutes", "Minutes of a meeting are sent within three days.", "talk"),
]
QUERIES = [
    ("q1", "when does the boat to the island go", "travel"),
    ("q2", "how long to rest rye dough", "food"),
    ("q3", "nobody judged this question", "food"),
    ("q4", "who gets the minutes and when", "talk"),
]
QRELS = [("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d10", 2), ("q4", "d5", 2), ("q4", "d4", 1), ("q4", "d1", 0)]


def rows(name: str) -> list[dict[str, object]]:
    """The tables as rows."""
    names, data = {
        "pairs": (("text_a", "text_b", "score", "slice"), PAIRS),
        "corpus": (("_id", "title", "text", "slice"), CORPUS),
        "queries": (("_id", "text", "slice"), QUERIES),
        "qrels": (("query-id", "corpus-id", "score"), QRELS),
    }[name]
    return [dict(zip(names, row, strict=True)) for row in data]


def write(path: Path, table: list[dict[str, object]], unquoted: bool = False) -> Path:
    """A table in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(table[0])
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in table), encoding="utf-8")
    elif unquoted:
        lines = ["\t".join(names), *("\t".join(str(v) for v in r.values()) for r in table)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
            out.writeheader()
            out.writerows(table)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = pa.Table.from_pylist(table)
        if path.suffix == ".parquet":
            pq.write_table(data, path)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, data.schema) as stream:
                stream.write_table(data)
    return path


def saved_to_disk(folder: Path, table: list[dict[str, object]]) -> None:
    """A split as ``datasets.Dataset.save_to_disk`` leaves it, in two files."""
    half = len(table) // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (table[:half], table[half:]), strict=True):
        write(folder / name, part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    (folder / "dataset_info.json").write_text("{}")
