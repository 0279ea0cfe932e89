from __future__ import annotations

import pytest

from qguard.errors import DataProblem, UsageProblem
from qguard.suites import load_suite


def read(tmp_path, data: bytes, name: str = "s.jsonl"):
    (tmp_path / name).write_bytes(data)
    return load_suite("s", {"s": tmp_path / name})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', r"s\.jsonl:2: not JSON"),
        (b'{"text": "a"}\n{"text": "a"}\n', r"s\.jsonl:2: duplicate of line 1"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"s\.jsonl:2: not UTF-8"),
        (b'{"text": "a"}\n[1]\n', r"s\.jsonl:2: expected a JSON object"),
        (b'{"text": 3}\n', r"s\.jsonl:1: expected a string 'text'"),
        (b'{"text": "\\ud800"}\n', "lone surrogate"),
        (b'{"text_a": "a", "text_b": "b", "score": NaN}\n', "score must be a number"),
        (b"\n\n", "empty"),
    ],
)
def test_bad_lines_are_named(tmp_path, data, message):
    with pytest.raises(DataProblem, match=message):
        read(tmp_path, data)


def test_line_separators_inside_a_text_do_not_split_it(tmp_path):
    assert read(tmp_path, '{"text": "a\u2028b"}\n'.encode()).texts == ("a\u2028b",)


def test_a_dangling_judgement_is_named(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "y"}\n')
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td9\t1\n")
    with pytest.raises(DataProblem, match=r"qrels\.tsv:2"):
        load_suite("s", {"s": tmp_path})


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(UsageProblem, match="core"):
        load_suite("cores", {})


def test_core_labels_mean_something_to_fp32(harness):
    import numpy as np
    from scipy.stats import spearmanr

    suite, vectors = harness.suite("core"), harness.golden("minilm", "core").vectors.astype(np.float64)
    cosine = [float(vectors[p.a] @ vectors[p.b]) for p in suite.pairs]
    assert spearmanr(cosine, [p.score for p in suite.pairs]).statistic >= 0.75
    documents, ndcg = list(suite.documents), []
    for q, text in enumerate(suite.queries):
        order = np.argsort(-(vectors[documents] @ vectors[text]), kind="stable")[:10]
        gain = [suite.qrels[q].get(int(i), 0) / np.log2(r + 2) for r, i in enumerate(order)]
        best = [g / np.log2(r + 2) for r, g in enumerate(sorted(suite.qrels[q].values(), reverse=True))]
        ndcg.append(sum(gain) / sum(best))
    assert np.mean(ndcg) >= 0.75
