"""Suites of pairs and candidates, what becomes of them in tokenizers, runtimes and metrics: no model is needed."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from qguard.encoders import padded
from qguard.encoders.feeds import Feeds
from qguard.encoders.ports import Port
from qguard.encoders.tokenizer import TextTokenizer, Tokens, shortened, types_of
from qguard.errors import DataProblem
from qguard.goldens.cross_encoder import summary
from qguard.metrics import Comparison
from qguard.metrics.scores import METRICS, ORDER, items, kendall, order_parts, parts
from qguard.metrics.task import labelled_items, names
from qguard.models.pipeline import Pipeline, Scoring
from qguard.suites import Suite
from qguard.suites.paired import TextPair
from qguard.suites.reader import read_suite
from qguard.vectors.scores import Scores

QUERY = {"_id": "q1", "text": "when does the ferry leave"}
CORPUS = ({"_id": "d1", "text": "It leaves at noon."}, {"_id": "d2", "text": "The ferry is green."})
CANDIDATES = {"query": "q1", "candidates": [{"document": "d2", "score": 0}, {"text": "At noon.", "score": 2}, {"document": "d1"}]}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def folder(path: Path, candidates: Any = CANDIDATES, **files: str) -> Path:
    """A suite of one query and its candidates."""
    path.mkdir(exist_ok=True)
    given = lines(candidates) if candidates else ""
    files = {"queries": lines(QUERY), "corpus": lines(*CORPUS), "candidates": given, **files}
    for name, text in files.items():
        if text:
            (path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return path


def test_candidates_are_documents_or_texts_of_their_own_and_change_no_hash_of_dense_models(tmp_path: Path) -> None:
    suite = read_suite("s", folder(tmp_path / "with"))
    assert [(c.text, c.score, c.document) for c in suite.candidates[0]] == [
        ("The ferry is green.", 0.0, 1),
        ("At noon.", 2.0, None),
        ("It leaves at noon.", None, 0),
    ]
    plain = read_suite("s", folder(tmp_path / "without", candidates=""))
    assert suite.texts == plain.texts
    assert suite.sha256 == plain.sha256
    assert suite.paired().sha256 != suite.sha256


def test_candidates_may_be_texts_alone_without_a_corpus(tmp_path: Path) -> None:
    texts = {"query": "q1", "candidates": [{"text": "a"}, {"text": "b"}]}
    suite = read_suite("s", folder(tmp_path, texts, corpus=""))
    assert [t.second for t in suite.paired().texts if isinstance(t, TextPair)] == ["a", "b"]


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ({"query": "q1"}, "expected .*candidates"),
        ({"query": "q2", "candidates": [{"text": "a"}]}, "query 'q2', which the suite does not hold"),
        ({"query": "q1", "candidates": [{"document": "d9"}]}, "does not hold document 'd9'"),
        ({"query": "q1", "candidates": [{"document": "d1", "text": "a"}]}, "a document's id or a text"),
        ({"query": "q1", "candidates": [{"text": "a", "score": 0.5}]}, "a score must be a whole number, found 0.5"),
        ({"query": "q1", "candidates": [{"text": "a", "grade": 1}]}, "a document's id or a text"),
        ({"query": "q1", "candidates": [{"document": "d1"}, {"text": "It leaves at noon."}]}, "is there twice"),
        ({"query": "q1", "candidates": []}, "expected"),
    ],
)
def test_malformed_candidates_are_named_with_their_line(tmp_path: Path, candidates: Any, words: str) -> None:
    with pytest.raises(DataProblem, match=rf"candidates\.jsonl:1.*{words}"):
        read_suite("s", folder(tmp_path, candidates))


def test_candidates_without_queries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataProblem, match=r"holds candidates, and no queries\.jsonl"):
        read_suite("s", folder(tmp_path, queries="", corpus=""))


def test_a_suite_of_pairs_keeps_slices_scores_groups_and_grades(tmp_path: Path) -> None:
    pairs = lines({"text_a": "a", "text_b": "b", "score": 3, "slice": "x"}, {"text_a": "b", "text_b": "a", "score": 1})
    suite = read_suite("s", folder(tmp_path, pairs=pairs)).paired()
    assert [(t.first, t.second) for t in suite.texts if isinstance(t, TextPair)][:2] == [("a", "b"), ("b", "a")]
    assert suite.slices[:2] == ("x", None)
    assert [(p.a, p.b, p.score) for p in suite.pairs] == [(0, 0, 3.0), (1, 1, 1.0)]
    (group,) = suite.groups
    assert (group.query, group.members, group.judged) == (QUERY["text"], (2, 3, 4), {0: 0.0, 1: 2.0})
    assert suite.of_pairs
    assert suite.labelled
    assert {"task.average_precision", "task.ndcg@10"} <= set(names(suite))
    left = suite.without([3])
    assert (left.groups[0].members, left.groups[0].judged) == ((2, 3), {0: 0.0})


def test_a_suite_of_texts_alone_has_nothing_for_a_cross_encoder(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(lines({"text": "a"}), encoding="utf-8")
    with pytest.raises(DataProblem, match=r"neither pairs nor candidates.*candidates = \"MODEL\""):
        read_suite("s", tmp_path / "t.jsonl").paired()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_pair_stays_one_when_it_is_copied(copied: Any) -> None:
    found = copied(TextPair("a | b", "c"))
    assert (found.first, found.second, found) == ("a | b", "c", "a | b | c")


@pytest.mark.parametrize(
    ("text", "halves"),
    [("one two three four", ("one two", "three four")), ("", ("", "")), ("abcd", ("ab", "cd")), (" ", ("", ""))],
)
def test_any_other_text_is_read_in_two_halves(text: str, halves: tuple[str, str]) -> None:
    found = TextPair.of(text)
    assert (found.first, found.second) == halves


def words(typed: bool, length: int = 8) -> TextTokenizer:
    vocabulary = {w: i for i, w in enumerate(("[PAD]", "[CLS]", "[SEP]", "a", "b", "c", "d", "p", "[UNK]"))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 1), ("[SEP]", 2)]
    )
    scoring = Scoring("Identity", ("one",), typed)
    pipeline = Pipeline((), length, kind="cross-encoder", scoring=scoring, prompts={"it": "p "}, default_prompt="it")
    return TextTokenizer(made, pipeline, 0)


def test_a_pair_has_the_prompt_before_its_first_text_and_the_type_of_each_token() -> None:
    (row,) = words(True)([TextPair("a b", "c d")])
    assert row == [1, 7, 3, 4, 2, 5, 6, 2]
    assert types_of(row) == [0, 0, 0, 0, 0, 1, 1, 1]
    assert types_of(words(False)([TextPair("a b", "c d")])[0]) is None
    (cut,) = words(True, 6)([TextPair("a b", "c d")])  # a token at a time off the longer text
    assert cut == [1, 7, 3, 2, 5, 2]


def test_token_types_are_padded_and_cut_with_their_tokens() -> None:
    rows = [Tokens([1, 3, 2, 5, 2], types=[0, 0, 0, 1, 1]), Tokens([1, 2, 2], types=[0, 0, 1])]
    ids, mask, types = padded(rows, padding=1)
    assert types.tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]
    assert mask.sum(1).tolist() == [5, 3]
    assert padded(rows, side="left")[2].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]
    assert len(padded([[1, 2]])) == 2
    short = shortened(rows[0], 3)
    assert (list(short), types_of(short)) == ([1, 3, 2], [0, 0, 1])
    again = pickle.loads(pickle.dumps(rows[0]))
    assert (again, again.types) == (rows[0], rows[0].types)
    assert ids.shape == (2, 6)


def test_a_file_is_fed_the_tokenizers_types_and_zeros_where_there_are_none() -> None:
    ports = [Port(name, "int64", (None, None)) for name in ("input_ids", "attention_mask", "token_type_ids")]
    feeds = Feeds(ports, Path("model.onnx"))
    ids, types = np.array([[1, 2]]), np.array([[0, 1]])
    assert feeds(ids, ids, types)["token_type_ids"].tolist() == [[0, 1]]
    assert feeds(ids, ids)["token_type_ids"].tolist() == [[0, 0]]
    fixed = Feeds([Port(p.name, "int64", (None, 4)) for p in ports], Path("model.onnx"))
    assert fixed(ids, ids, types)["token_type_ids"].tolist() == [[0, 1, 0, 0]]


def suite_of(scores: list[list[float | None]]) -> Suite:
    """Queries whose candidates have these grades."""
    from qguard.suites.paired import Candidate

    texts = tuple(f"query {i}" for i in range(len(scores)))
    candidates = {
        i: tuple(Candidate(f"document {i} {k}", grade) for k, grade in enumerate(grades)) for i, grades in enumerate(scores)
    }
    return Suite("s", texts, (None,) * len(texts), queries=tuple(range(len(texts))), candidates=candidates).paired()


def compared(suite: Suite, old: Any, new: Any, **settings: Any) -> Comparison:
    found = Scores(**settings).fitted(np.asarray(old), {"scoring": {"activation": "Sigmoid"}}, settings.get("threshold"))
    return Comparison.of(suite, np.asarray(old, np.float32), np.asarray(new, np.float32), found)


def values(c: Comparison, which: Any) -> dict[str, float]:
    return {m.name: float(m.reduce(rows.rows)) for rows, metrics in which(c) for m in metrics}


def test_errors_are_in_logits_in_spreads_and_after_activation() -> None:
    suite = suite_of([[None] * 4])
    old, new = [[-2.0], [0.0], [0.0], [2.0]], [[-2.0], [0.5], [0.0], [1.5]]
    found = values(compared(suite, old, new, threshold=0.6), parts)
    spread = np.std([-2, 0, 0, 2])
    assert found["score.max_error_logits"] == 0.5
    assert found["score.max_error"] == pytest.approx(0.5 / spread)
    assert found["score.bias"] == 0
    assert found["score.mean_error_logits"] == 0.25
    assert found["score.max_error_activated"] == pytest.approx(1 / (1 + np.exp(-0.5)) - 0.5)
    assert found["score.threshold_flips"] == 0.25  # sigmoid(.5) = .62
    assert "score.label_flips" not in found
    assert "score.threshold_flips" not in values(compared(suite, old, new), parts)


def test_of_several_labels_the_greatest_logit_is_the_label() -> None:
    suite = suite_of([[None, None]])
    c = compared(suite, [[1.0, 0.0, -1.0], [0.0, 1.0, 0.5]], [[1.0, 0.5, -1.0], [0.0, 0.4, 0.5]])
    found = values(c, parts)
    assert found["score.label_flips"] == 0.5
    assert found["score.max_error_logits"] == pytest.approx(0.6)
    assert not {"score.spearman", "score.threshold_flips"} & set(found)
    assert order_parts(c) == []
    assert "of label 1" in items(c).label(1)


def test_the_order_of_candidates_is_kept_or_not() -> None:
    suite = suite_of([[None] * 3, [None] * 3])
    old = [[3.0], [2.0], [1.0], [3.0], [2.0], [1.0]]
    found = values(compared(suite, old, [[3.0], [2.0], [1.0], [1.9], [2.0], [1.0]]), order_parts)
    assert found["order.tau"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["order.tau_min"] == pytest.approx(1 / 3)
    assert found["order.top1"] == 0.5
    assert found["order.inversions"] == pytest.approx(1 / 6)
    assert found["order.overlap@5"] == 1.0
    assert {*found} == {m.name for m in ORDER}


def test_kendall_is_scipys() -> None:
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 4, 12), rng.integers(0, 9, 12)
        assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)
    assert (kendall(np.ones(3), np.ones(3)), kendall(np.ones(3), np.arange(3))) == (1.0, 0.0)


def test_graded_candidates_are_scored_by_the_measures_of_retrieval() -> None:
    suite = suite_of([[0.0, 3.0, 1.0], [None, None, None]])
    c = compared(suite, [[1.0], [3.0], [2.0], [0.0], [0.0], [0.0]], [[3.0], [2.0], [1.0], [0.0], [0.0], [0.0]])
    ((rows, metrics),) = labelled_items(c)
    found = {m.name: float(m.reduce(rows.rows)) for m in metrics}
    assert len(rows.rows) == 1  # nobody judged the second
    assert found["task.ndcg@10_fp32"] == 1.0
    assert found["task.mrr@10"] == 0.5
    ideal = 3 + 1 / np.log2(3)
    assert found["task.ndcg@10"] == pytest.approx((3 / np.log2(3) + 1 / np.log2(4)) / ideal)


def test_two_scores_agree_by_their_distance_over_the_spread() -> None:
    similar = Scores(spread=2.0)
    assert similar.agreement(np.array([[0.0], [0.0], [0.0]]), np.array([[0.0], [0.2], [9.0]])).tolist() == [1.0, 0.995, -1.0]
    assert np.isnan(similar.agreement(np.array([[0.0]]), np.array([[np.nan]]))).all()
    assert similar.change(np.array([[1.0]]), np.array([[1.5]])).tolist() == [0.25]
    assert {m.name.partition(".")[0] for m in METRICS} == {"score"}


def test_a_slice_of_any_name_is_one_cell_of_a_goldens_summary() -> None:
    suite = replace(suite_of([[1.0, 0.0]]), slices=("two\nlines | here",) * 2)
    text = summary("m", suite, np.zeros((2, 1), np.float32), [[1], [2]], Scoring("Identity", ("LABEL_0",))).decode()
    assert text.count("| two lines / here | 2 |") == 1
    assert "two\n" not in text
