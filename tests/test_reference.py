"""Published figures of fp32, reproduced through qguard's readers and metrics; collected where the data is."""

from __future__ import annotations

import pytest

from qguard.families import measure
from qguard.metrics import Comparison
from qguard.precisions import parse_precision
from qguard.suites.reader import read_suite
from qguard.suites.source import Source
from tests.conftest import DATA
from tests.labelled import write


def scores(harness, suite):
    encoder = harness.encoder(parse_precision("fp32"), "minilm")
    vectors = encoder.encode_ids(encoder.tokenizer(suite.texts, suite.roles))
    return {m.name: m.value for m in measure(Comparison.of(suite, vectors, vectors), "task") if m.slice is None}


def test_stsb_as_mteb_scores_it(harness, tmp_path):
    stsb = read_suite("stsb", Source(str(DATA / "stsb_en" / "pairs.jsonl"), scores=(0.0, 5.0), split="test", duplicates="keep"))
    assert len(stsb.pairs) == 1379
    found = scores(harness, stsb)
    assert found["task.spearman"] == pytest.approx(0.8203247, abs=1e-4)
    assert found["task.pearson"] == pytest.approx(0.8274064, abs=1e-4)
    table = [{"sentence1": stsb.texts[p.a], "sentence2": stsb.texts[p.b], "score": p.score} for p in stsb.pairs]
    for suffix in ("csv", "tsv"):
        again = read_suite("stsb", Source(str(write(tmp_path / f"p.{suffix}", table)), duplicates="keep"))
        assert [(p.a, p.b, p.score) for p in again.pairs] == [(p.a, p.b, p.score) for p in stsb.pairs]


def test_scifact_is_read_as_beir_reads_it():
    suite = read_suite("scifact", Source(str(DATA / "scifact")))
    assert (len(suite.queries), len(suite.documents), sum(map(len, suite.qrels.values()))) == (300, 5183, 339)
    assert sum(len(suite.texts[q]) for q in suite.queries) == 27_104  # as MTEB describes it
    # title, a space and text: MTEB counts them without the space
    assert sum(len(suite.texts[d]) for d in suite.documents) == pytest.approx(7_771_469, abs=5183)
