"""The same data is the same suite in every format; what is wrong in it is named with its file and line."""

from __future__ import annotations

import importlib.util
import json

import pytest

from qguard.config import load_config
from qguard.errors import DataProblem, UsageProblem
from qguard.families import measure
from qguard.metrics import Comparison
from qguard.suites import load_suite
from qguard.suites.source import Source
from tests.labelled import CORPUS, PAIRS, rows, saved_to_disk, write

needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the extra data")
PARQUET = [pytest.param(s, marks=needs_pyarrow) for s in ("parquet", "arrow")]


def suite_of(path, **settings):
    return load_suite("s", {"s": Source(str(path), **settings)})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return suite_of(write(tmp_path_factory.mktemp("pairs") / "p.jsonl", rows("pairs")))


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    return suite_of(beir(tmp_path_factory.mktemp("retrieval"), "jsonl"))


@pytest.fixture(scope="module")
def scores(harness, pairs, retrieval):
    """Task metrics of a suite whose texts are those of ``pairs`` and ``retrieval``, by real vectors."""
    from qguard.precisions import parse_precision

    texts = list(dict.fromkeys([*pairs.texts, *retrieval.texts]))
    vectors = harness.encoder(parse_precision("fp32"), "minilm").encode(texts)

    def score(suite):
        v = vectors[[texts.index(t) for t in suite.texts]]
        return {(m.name, m.slice): m.value for m in measure(Comparison.of(suite, v, v), "task")}

    return score


def beir(folder, suffix, qrels="qrels/test.tsv"):
    write(folder / f"corpus.{suffix}", rows("corpus"))
    write(folder / f"queries.{suffix}", rows("queries"))
    write(folder / qrels, rows("qrels"))
    return folder


@pytest.mark.parametrize("suffix", ["csv", "tsv", *PARQUET])
def test_pairs_are_the_same_suite_in_every_format(tmp_path, pairs, scores, suffix):
    found = suite_of(write(tmp_path / f"p.{suffix}", rows("pairs")))
    assert (found.pairs, found.sha256) == (pairs.pairs, pairs.sha256)
    assert scores(found) == scores(pairs)


@pytest.mark.parametrize("suffix", ["csv", "tsv", *PARQUET])
@pytest.mark.parametrize("qrels", ["qrels/test.tsv", "qrels.tsv", "qrels/test.jsonl"])
def test_retrieval_is_the_same_suite_in_every_format(tmp_path, retrieval, scores, suffix, qrels):
    found = suite_of(beir(tmp_path, suffix, qrels))
    assert found.sha256 == retrieval.sha256
    assert scores(found) == scores(retrieval)


def test_retrieval_is_what_the_data_says(retrieval, scores):
    assert [retrieval.texts[d] for d in retrieval.documents][:2] == [f"{CORPUS[0][1]} {CORPUS[0][2]}", CORPUS[1][2]]
    assert retrieval.query_ids == ("q1", "q2", "q4")  # nobody judged q3: it is not encoded
    assert not any("nobody" in t for t in retrieval.texts)
    assert retrieval.qrels == {0: {0: 2, 1: 1}, 1: {2: 2}, 2: {5: 2, 4: 1, 0: 0}}
    assert scores(retrieval)["task.recall@10", "food"] == 1


@needs_pyarrow
def test_a_folder_of_datasets_is_read_by_split(tmp_path, pairs):
    saved_to_disk(tmp_path / "test", rows("pairs"))
    saved_to_disk(tmp_path / "train", rows("pairs")[:2])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert suite_of(tmp_path).sha256 == pairs.sha256
    assert len(suite_of(tmp_path, split="train").pairs) == 2
    with pytest.raises(DataProblem, match="no split 'tests', only test, train"):
        suite_of(tmp_path, split="tests")
    with pytest.raises(DataProblem, match=r"test/data-00000-of-00002\.arrow:1: expected a string 'no'"):
        suite_of(tmp_path, columns=(("text_a", "no"),))


@needs_pyarrow
def test_data_files_are_chosen_by_the_split_in_their_names(tmp_path, pairs):
    write(tmp_path / "data" / "test-00000-of-00002.parquet", rows("pairs")[:3])
    write(tmp_path / "data" / "test-00001-of-00002.parquet", rows("pairs")[3:])
    write(tmp_path / "data" / "train-00000-of-00001.parquet", rows("pairs"))
    assert suite_of(tmp_path).sha256 == pairs.sha256
    (tmp_path / "data" / "test-00001-of-00002.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataProblem, match=r"cannot read test-00001-of-00002\.parquet"):
        suite_of(tmp_path)


def test_files_of_several_splits_need_one_stated(tmp_path):
    write(tmp_path / "train.jsonl", rows("pairs"))
    write(tmp_path / "dev.jsonl", rows("pairs")[:2])
    with pytest.raises(DataProblem, match=r'has the splits dev, train; state one: split = "train"'):
        suite_of(tmp_path)
    assert len(suite_of(tmp_path, split="dev").pairs) == 2


def test_a_column_tells_the_split_of_a_row(tmp_path):
    table = [{**r, "split": "dev" if i < 2 else "test"} for i, r in enumerate(rows("pairs"))]
    path = write(tmp_path / "p.csv", table)
    assert len(suite_of(path, split="dev").pairs) == 2
    with pytest.raises(DataProblem, match="no rows of split 'train', only dev, test"):
        suite_of(path, split="train")
    with pytest.raises(DataProblem, match="no column that tells it"):
        suite_of(write(tmp_path / "q.csv", rows("pairs")), split="test")


def test_a_tsv_may_hold_quotes_as_plain_characters(tmp_path, pairs):
    path = write(tmp_path / "p.tsv", rows("pairs"), unquoted=True)
    assert suite_of(path, format="tsv-unquoted").sha256 == pairs.sha256
    path.write_text('text\n"Yes," she said.\n')
    with pytest.raises(DataProblem, match=r'p\.tsv:2: .*format = "tsv-unquoted"'):
        suite_of(path)


def test_texts_one_a_line(tmp_path):
    (tmp_path / "t.txt").write_text("First text.\r\n\nSecond, with a comma.\n", encoding="utf-8")
    assert suite_of(tmp_path / "t.txt").texts == ("First text.", "Second, with a comma.")


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("sentence1", "sentence2", "similarity_score", "genre"), {}),
        (("premise", "hypothesis", "relatedness_score", "domain"), {}),
        (("left", "right", "gold", "kind"), {"columns": {"text_a": "left", "text_b": "right", "score": "gold", "slice": "kind"}}),
    ],
)
def test_columns_are_told_by_common_names_or_stated(tmp_path, pairs, names, settings):
    path = write(tmp_path / "p.csv", [dict(zip(names, row, strict=True)) for row in PAIRS])
    columns = tuple(settings.get("columns", {}).items())
    assert suite_of(path, columns=columns).sha256 == pairs.sha256


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ("text_a,text_b,score\na,b,7\n", {"scores": (0.0, 5.0)}, r"s\.csv:2: score 7 lies outside of 0 to 5"),
        ("text_a,text_b,score\na,b,much\n", {}, r"s\.csv:2: score must be a number, found 'much'"),
        ("text_a,text_b,score\na,b,inf\n", {}, r"s\.csv:2: score must be a number"),
        ("text_a,text_b\na,b,c\n", {}, r"s\.csv:2: expected 2 cells \(text_a, text_b\), found 3"),
        ('text_a,text_b\n"a\nb",c\n"a\nb",c\n', {}, r"s\.csv:4: duplicate of line 2.*duplicates = \"keep\""),
        ("text_a,text_a\na,b\n", {}, r"s\.csv:1: expected a line of distinct column names"),
        ("words\na\n", {}, r"""s\.csv:2: expected a string 'text', found keys \['words'\].*columns = \{text = "…"\}"""),
        ("premise,hypothesis,label\na,b,0\nc,d,1\ne,f,2\n", {}, r"a label has two values.*\{score = \"label\"\}"),
        ("premise,hypothesis,label\na,b,entailment\n", {}, r"s\.csv:2: label must be a number.*columns = \{label = \"\"\}"),
        ("text\n", {}, "empty suite would pass"),
        ("", {}, "empty suite would pass"),
    ],
)
def test_wrong_tables_are_named_with_their_line(tmp_path, data, settings, message):
    (tmp_path / "s.csv").write_text(data)
    with pytest.raises(DataProblem, match=message):
        suite_of(tmp_path / "s.csv", **settings)


@pytest.mark.parametrize(
    ("part", "line", "message"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": " "}', r"queries\.jsonl:1: query 'q1' is empty"),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "x"}\n{"_id": "d1", "text": "y"}',
            r"corpus\.jsonl:2: the id 'd1' is there twice",
        ),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq9\td1\t1", r"test\.tsv:2: query 'q9' is judged"),
        ("qrels/test.tsv", "q1\td77\t1", r"test\.tsv:1: document 'd77' is judged"),
        ("qrels/test.tsv", "q1\td1\t0.5", r"test\.tsv:1: a grade must be a whole number, found 0\.5"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t2", r"test\.tsv:2: duplicate judgment of q1 and d1"),
        ("qrels/test.tsv", "q1 0 d1 1", r"test\.tsv:1: expected query-id, corpus-id, grade"),
    ],
)
def test_wrong_retrieval_data_is_named_with_its_line(tmp_path, part, line, message):
    (beir(tmp_path, "jsonl") / part).write_text(line + "\n")
    with pytest.raises(DataProblem, match=message):
        suite_of(tmp_path)


def test_every_row_counts_where_the_project_says_so(tmp_path, pairs, scores):
    path = write(tmp_path / "p.jsonl", [*rows("pairs"), rows("pairs")[0]])
    with pytest.raises(DataProblem, match=r"p\.jsonl:7: duplicate of line 1"):
        suite_of(path)
    kept = suite_of(path, duplicates="keep")
    assert (len(kept.pairs), kept.texts) == (7, pairs.texts)
    assert scores(kept)["task.pearson", None] != scores(pairs)["task.pearson", None]


def test_the_order_of_rows_and_sides_does_not_matter(tmp_path, pairs, scores):
    table = [{"text_a": r["text_b"], "text_b": r["text_a"], **{k: r[k] for k in ("score", "slice")}} for r in rows("pairs")[::-1]]
    found = scores(suite_of(write(tmp_path / "p.jsonl", table)))
    assert found == pytest.approx(scores(pairs), abs=1e-12)


def test_equal_queries_and_documents_keep_their_own_judgements(tmp_path, retrieval):
    beir(tmp_path, "jsonl")
    twin = {"_id": "q5", "text": rows("queries")[0]["text"], "slice": "travel"}
    copy = {**rows("corpus")[0], "_id": "d9"}
    write(tmp_path / "queries.jsonl", [*rows("queries"), twin])
    write(tmp_path / "corpus.jsonl", [*rows("corpus"), copy])
    judged = [*rows("qrels"), {"query-id": "q5", "corpus-id": "d9", "score": 1}]
    write(tmp_path / "qrels" / "test.tsv", judged)
    found = suite_of(tmp_path)
    assert len(found.texts) == len(retrieval.texts)
    assert (found.qrels[0], found.qrels[3]) == ({0: 2, 1: 1}, {6: 1})
    write(tmp_path / "qrels" / "test.tsv", [*judged[:-1], {**judged[-1], "corpus-id": "d1"}])
    assert suite_of(tmp_path).sha256 != found.sha256


def test_a_suite_is_configured_with_its_columns(tmp_path):
    (tmp_path / "own.csv").write_text("left,right,gold,part\na,b,3,dev\nc,d,4,test\n")
    table = (
        '[tool.qguard.suite.own]\npath = "own.csv"\nscores = [0, 5]\nsplit = "test"\n'
        'columns = {text_a = "left", text_b = "right", score = "gold", split = "part"}\n'
    )
    (tmp_path / "pyproject.toml").write_text(table)
    suite = load_suite("own", load_config(tmp_path).suite_sources)
    assert [(suite.texts[p.a], p.score) for p in suite.pairs] == [("c", 4)]
    for wrong, message in (
        ('format = "cvs"', "unknown format 'cvs'; did you mean csv"),
        ("scores = [5, 0]", "expected the lowest and the highest score"),
        ('columns = {texta = "x"}', "columns.texta"),
        ('duplicates = "drop"', "duplicates"),
    ):
        (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.suite.own]\npath = "own.csv"\n{wrong}\n')
        with pytest.raises(UsageProblem, match=message):
            load_config(tmp_path)


def hub_cache(root, revision="0" * 40):
    """A data set as the hub's cache holds it."""
    repo = root / "hub" / "datasets--team--pairs"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    return repo / "snapshots" / revision


def test_a_data_set_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch, pairs):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = hub_cache(tmp_path)
    write(snapshot / "en" / "test.jsonl", rows("pairs"))
    write(snapshot / "de" / "test.jsonl", rows("pairs")[:1])
    (snapshot / "pairs.py").write_text("raise SystemExit('a script ran')\n")
    assert suite_of("hf:team/pairs/en@main").sha256 == pairs.sha256
    with pytest.raises(DataProblem, match="holds no parquet, jsonl, csv, tsv files; scripts are never run"):
        suite_of("hf:team/pairs/fr")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hf:nobody/no-such-data", "is not in the local hub cache and the hub cannot be reached"),
        ("hf:nobody", "expected hf:ORG/NAME"),
        ("hf:a/b/../c", "expected hf:ORG/NAME"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_paragraph(monkeypatch, tmp_path, reference, message):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataProblem, match=message) as found:
        suite_of(reference)
    assert "\n" not in str(found.value)


def test_a_long_read_shows_a_bar_where_a_person_watches(tmp_path, monkeypatch, capfd):
    from qguard.suites.formats import files

    path = write(tmp_path / "p.jsonl", [{"text": f"text {i}"} for i in range(2000)])
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    suite_of(path)
    assert capfd.readouterr().err == ""  # over in less than two seconds
    monkeypatch.setattr(files, "PATIENCE", 1e-9)
    suite_of(path)
    assert "reading p.jsonl" in capfd.readouterr().err


def test_reading_holds_little_beyond_the_texts(tmp_path):
    import tracemalloc

    path = tmp_path / "t.jsonl"
    with path.open("w") as file:
        for i in range(20_000):
            file.write(json.dumps({"text": f"{i} " + "word " * 60}) + "\n")
    tracemalloc.start()
    suite = suite_of(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * sum(map(len, suite.texts)) + 8e6
    assert len(suite.texts) == 20_000
