"""The sample as a suite: a folder that ``[tool.qguard.suite.*]`` reads, and a record of how it was drawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qguard.errors import DataProblem, MeasurementProblem, UsageProblem
from qguard.files import dump_json, replaces, replacing, write_atomic
from qguard.sampling.allocation import FLOOR
from qguard.sampling.draw import Drawn, Sample
from qguard.sampling.personal import personal
from qguard.sampling.production import DOCUMENTS, PAIRS, QUERIES, TEXTS
from qguard.sampling.survey import KEEP
from qguard.suites.reader import read_suite
from qguard.suites.source import Source

RECORD = "sample.json"
OTHER = "other"  # the slice of what is rare
FILES = {TEXTS: "texts.jsonl", PAIRS: "pairs.jsonl", QUERIES: "queries.jsonl", DOCUMENTS: "corpus.jsonl"}


def check_target(folder: Path, force: bool) -> None:
    """Nothing of the user's may be lost: an existing folder is empty, or is a sample that ``--force`` replaces.

    Raises:
        UsageProblem: for anything else.
    """
    if not replaces(folder, force, "sample"):
        return
    known = {RECORD, "candidates.jsonl", "qrels", *FILES.values()}
    if not (folder / RECORD).is_file() or (others := sorted({f.name for f in folder.iterdir()} - known)):
        what = "no " + RECORD if not (folder / RECORD).is_file() else ", ".join(others)
        raise UsageProblem(f"--out {folder} holds {what}: it is not only a sample, and --force does not replace it")


def write_suite(folder: Path, sample: Sample, source: Source, force: bool = False) -> None:
    """Write the sample; a kill at any moment leaves the old folder or the new one. The written suite is read before it counts.

    Raises:
        UsageProblem: see :func:`check_target`.
        DataProblem: where the sample is no suite, as when a document has an id with a tab in it.
        MeasurementProblem: where the folder cannot be written.
    """
    check_target(folder, force)
    try:
        with replacing(folder) as new:
            _write(new, sample, source)
            try:
                read_suite("sample", Source(str(new), scores=source.scores))
            except DataProblem as e:
                raise DataProblem(f"{source.name} gives no suite that can be read: {e}; correct the source") from e
    except OSError as e:
        raise MeasurementProblem(f"--out {folder}: cannot be written ({e.strerror or e})") from e


def _write(folder: Path, sample: Sample, source: Source) -> None:
    folder.mkdir(parents=True)
    slices = slices_of(sample)
    for kind, name in FILES.items():
        if rows := [_row(d, sample, slices) for d in sample.drawn if d.unit.kind == kind]:
            write_atomic(folder / name, _lines(rows))
    if sample.candidates:
        write_atomic(folder / "candidates.jsonl", _lines(sample.candidates))
    if sample.judgments:
        lines = ["query-id\tcorpus-id\tscore"]
        for query, grades in sample.judgments.items():
            for document, grade in grades.items():
                if any(c in query + document for c in "\t\r\n"):
                    raise DataProblem(f"the ids {query!r} and {document!r} cannot be written as BEIR has them: a tab or line end")
                lines.append(f"{query}\t{document}\t{grade}")
        (folder / "qrels").mkdir()
        write_atomic(folder / "qrels" / "test.tsv", ("\n".join(lines) + "\n").encode())
    write_atomic(folder / RECORD, dump_json(record(sample, source)))


def slices_of(sample: Sample) -> dict[str, str]:
    """Stratum → slice, or nothing. A gate on every slice must not fail for one text of a rare kind: strata of few rows are one
    slice together, or none where they are still too few.
    """
    counts = Counter(d.stratum.slice for d in sample.drawn)
    small = {name for name, count in counts.items() if count < FLOOR}
    together = OTHER if sum(counts[name] for name in small) >= FLOOR else ""
    return {name: together if name in small else name for name in counts}


def _row(drawn: Drawn, sample: Sample, slices: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "slice": slices[drawn.stratum.slice] or None,
        "stratum": drawn.stratum.slice,
        "weight": float(f"{drawn.weight:.6g}"),
        "topic": drawn.cluster,
        "hardness": drawn.hardness,
        "gap": None if drawn.gap is None else float(f"{drawn.gap:.3g}"),
    }
    if sample.settings.personal == KEEP:
        facts["personal"] = sorted({f.kind for f in personal(drawn.unit.said, sample.settings.region)}) or None
    return {**drawn.unit.row, **{k: v for k, v in facts.items() if v is not None}}


def record(sample: Sample, source: Source) -> dict[str, Any]:
    """How the sample was drawn, schema 1; it names the source by the last part of its path."""
    counts = Counter(d.stratum for d in sample.drawn)
    return {
        "schema": 1,
        "source": source.name,
        "settings": vars(sample.settings),
        "rows": sample.rows,
        "duplicates": {"exact": sample.exact, "case_or_space": sample.near},
        "personal": {
            "rows": sample.personal.rows, "kinds": sample.personal.kinds, "queries_withheld": sample.personal.withheld
        },
        "strata": [
            {"kind": s.kind, "slice": s.slice, "source": size, "sample": counts[s]}
            for s, size in sorted(sample.sizes.items())
        ],
        "pool": sample.pooled,
        "shares_of_source": {name: float(f"{share:.6g}") for name, share in sample.shares.items()},
    }  # fmt: skip


def _lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
