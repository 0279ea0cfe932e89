"""The graded candidates of ``core``: complete, distinct, and in agreement with its judgments."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest

from benchmarks.core_candidates import Query, bm25, chance, quality, read, stored
from qguard.suites import BUILTIN, load_suite
from tests import kinds

CORE = BUILTIN["core"]


def rows(name):
    return [json.loads(line) for line in (CORE / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts():
    return {row["_id"]: row["text"] for name in ("queries.jsonl", "corpus.jsonl") for row in rows(name)}


@pytest.fixture(scope="module")
def judged():
    with (CORE / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    return {(row["query-id"], row["corpus-id"]): int(row["score"]) for row in table}


def test_each_query_has_its_candidates_in_order():
    assert [row["query"] for row in rows("candidates.jsonl")] == [row["_id"] for row in rows("queries.jsonl")]
    assert len(rows("candidates.jsonl")) == 127


@pytest.mark.parametrize("row", rows("candidates.jsonl"), ids=lambda row: row["query"])
def test_candidates_are_twenty_distinct_texts_with_grades(row, texts, judged):
    candidates = row["candidates"]
    assert all(set(c) in ({"document", "score"}, {"text", "score"}) for c in candidates)
    shown = [" ".join((c["text"] if "text" in c else texts[c["document"]]).split()).casefold() for c in candidates]
    assert len(shown) == len(set(shown)) == 20
    assert " ".join(texts[row["query"]].split()).casefold() not in shown
    grades = [c["score"] for c in candidates]
    assert all(type(g) is int and 0 <= g <= 3 for g in grades)
    assert max(grades) > 0
    assert grades.count(0) >= 10
    written = [c["text"] for c in candidates if "text" in c]
    assert 2 <= len(written) <= 4
    assert not set(written) & set(texts.values())
    found = {c["document"]: c["score"] for c in candidates if "document" in c}
    for (query, document), grade in judged.items():
        if query == row["query"]:
            assert found[document] == grade


def test_a_text_is_written_for_one_query_alone():
    written = [c["text"] for row in rows("candidates.jsonl") for c in row["candidates"] if "text" in c]
    assert len(written) == len(set(written))


def test_the_order_tells_nothing_of_the_grades():
    grades = np.array([[c["score"] for c in row["candidates"]] for row in rows("candidates.jsonl")])
    places = np.tile(np.arange(20), (len(grades), 1))
    assert abs(np.corrcoef(grades.ravel(), places.ravel())[0, 1]) < 0.06  # three standard errors


def test_candidates_leave_the_suite_as_it_was():
    assert load_suite("core", {}).sha256 == "7470775edd9ee8ad8c1e50779eac8dc8afe2eb8ff902390adf4fa79b66733064"


def test_what_chance_gives_is_the_mean_of_all_orders():
    def placed(total, three, one):
        return [{three: 3, one: 1}.get(i, 0) for i in range(total)]

    for total in (6, 12):  # fewer and more than the measures look at
        orders = [placed(total, *places) for places in itertools.permutations(range(total), 2)]
        queries = [Query("q", [str(i) for i in range(total)], grades, [False] * total) for grades in orders]
        assert chance(orders[0]) == pytest.approx(quality(queries, lambda query, candidates: np.zeros(len(candidates))))


def test_bm25_prefers_rare_words_and_short_texts():
    queries = [
        Query(
            "red kite", ["red brick", "kite", "a red car and a red bus", "kite on a long, long string"], [0, 3, 0, 3], [False] * 4
        )
    ]
    queries.append(Query("red", ["red wine"], [3], [False]))
    scores = bm25(queries)(queries[0].text, queries[0].candidates)
    assert np.argsort(-scores).tolist()[0] == 1
    assert bm25(queries)("plum", queries[0].candidates).tolist() == [0, 0, 0, 0]


def test_the_benchmark_reads_the_file_as_it_is(texts):
    for query, row in zip(read(CORE), rows("candidates.jsonl"), strict=True):
        assert query.text == texts[row["query"]]
        assert query.grades == [c["score"] for c in row["candidates"]]
        assert query.candidates == [c.get("text") or texts[c["document"]] for c in row["candidates"]]
        kept = query.without_written()
        assert kept.grades == [c["score"] for c in row["candidates"] if "document" in c]
        assert len(kept.candidates) == len(kept.grades)


@pytest.mark.parametrize("make", [kinds.tiny_cross_encoder, kinds.tiny_sparse, kinds.tiny_multi_vector])
def test_the_benchmark_scores_a_stored_model_of_each_kind(make, tmp_path):
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder

    folder = str(make(tmp_path / "model"))
    queries = [Query(q, [*kinds.TEXTS], [0] * len(kinds.TEXTS), [False] * len(kinds.TEXTS)) for q in kinds.QUERIES]
    found = np.stack([stored(tmp_path / "model", queries)(q.text, q.candidates) for q in queries])
    if make is kinds.tiny_cross_encoder:
        expected = [[CrossEncoder(folder).predict((q, t)) for t in kinds.TEXTS] for q in kinds.QUERIES]
    else:
        model = (SparseEncoder if make is kinds.tiny_sparse else MultiVectorEncoder)(folder)
        expected = [
            [model.similarity(model.encode_query([q]), model.encode_document([t])).item() for t in kinds.TEXTS]
            for q in kinds.QUERIES
        ]
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert found.std() > 1e-4
