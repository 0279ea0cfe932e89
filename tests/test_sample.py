"""Samples: what is drawn stands for the source, is a suite, repeats, and holds nothing personal that nobody asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from qguard import cli
from qguard.config import load_config
from qguard.judging.session import Session
from qguard.quantize import write
from qguard.sampling.draw import Settings, draw
from qguard.sampling.encode import encode_of
from qguard.sampling.production import Production
from qguard.sampling.topics import clusters, gaps, hashed_words, unit
from qguard.suites.reader import read_suite
from qguard.suites.source import Source
from tests.conftest import ROOT
from tests.test_light import FP32, HEAVY, give

WORDS = ["trains", "contracts", "flour", "rivers", "engines", "letters", "taxes", "gardens", "windows", "doctors"]


def sentence(rng, words):
    return " ".join(rng.choice(WORDS) + str(rng.randrange(900)) for _ in range(words))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """2,000 short texts, 300 longer ones, 12 of another script and 3 very long; repeated rows; and some that are personal."""
    rng, file = Random(3), tmp_path_factory.mktemp("log") / "log.jsonl"
    texts = [sentence(rng, rng.randint(2, 12)) for _ in range(2000)] + [sentence(rng, 30) for _ in range(300)]
    texts += [f"письмо номер {i}" for i in range(12)] + [sentence(rng, 400) for _ in range(3)]
    rng.shuffle(texts)
    texts += texts[:50] + [f" {t.upper()}  " for t in texts[:30]] + ["mail ann@acme.io please", "card 4111 1111 1111 1111"]
    jsonl(file, [{"text": t, "domain": "web"} for t in texts])
    return file


@pytest.fixture(scope="module")
def beir(tmp_path_factory) -> Path:
    """40 queries, 600 documents of which each query judges three, one relevant; document d0 is personal."""
    rng, folder = Random(4), tmp_path_factory.mktemp("beir")
    documents = [{"_id": f"d{i}", "title": f"title {i}", "text": sentence(rng, rng.choice([5, 30, 80]))} for i in range(600)]
    documents[0]["text"] += " ann@acme.io"
    jsonl(folder / "corpus.jsonl", documents)
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": sentence(rng, 4)} for i in range(41)])
    (folder / "qrels").mkdir()
    lines = [f"q{i}\td{i * 3 + j}\t{2 if j == 0 else j - 1}" for i in range(40) for j in range(3)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return folder


def run(*args):
    return cli.main(["sample", *map(str, args)])


def test_every_kind_of_text_is_there_and_its_weight_is_what_it_stands_for(log, tmp_path, capsys):
    assert run("--from", log, "--n", 200, "--out", tmp_path / "s", "--no-model") == 0
    out, err = capsys.readouterr()
    rows = rows_of(tmp_path / "s", "texts")
    slices = Counter(r["stratum"] for r in rows)
    assert len(rows) == 200
    assert slices["Cyrillic 1-16"] == 10
    assert slices["Latin 257-1024"] == 3
    assert slices["Latin 1-16"] / slices["Latin 17-64"] == pytest.approx((2000 / 300) ** 0.5, rel=0.05)
    assert sum(r["weight"] for r in rows) == pytest.approx(1, abs=1e-4)
    assert [r["weight"] for r in rows if r["stratum"] == "Cyrillic 1-16"] == pytest.approx([12 / 10 / 2315] * 10, rel=1e-4)
    assert all(r["source_slice"] == "web" and "topic" in r and "hardness" not in r for r in rows)
    assert "2,397 rows (2,397 texts); 50 repeat another exactly and 30 but for case and spaces" in out
    assert "topics by words; no hardness" in out
    assert "[tool.qguard.suite.s]" in out
    assert "log.jsonl:2396  e-mail address  xxx@xxxx.xx" in err
    assert "ann@acme" not in out + err
    facts = json.loads((tmp_path / "s" / "sample.json").read_text())
    assert facts["personal"]["kinds"] == {"e-mail address": 1, "payment card": 1}
    assert str(tmp_path) not in json.dumps(facts)


def test_the_suite_reader_takes_the_slices_and_ignores_what_else_is_known(log, tmp_path):
    assert run("--from", log, "--n", 60, "--out", tmp_path / "s", "--no-model") == 0
    suite = read_suite("s", tmp_path / "s")
    rows = rows_of(tmp_path / "s", "texts")
    assert suite.texts == tuple(r["text"] for r in rows)
    assert suite.slices == tuple(r.get("slice") for r in rows)
    bare = tmp_path / "bare.jsonl"
    jsonl(bare, [{"text": r["text"], "slice": r.get("slice")} for r in rows])
    assert read_suite("b", bare).sha256 == suite.sha256


def test_a_slice_has_ten_rows_so_that_one_rare_text_fails_no_gate(log, tmp_path):
    assert run("--from", log, "--n", 200, "--out", tmp_path / "few", "--no-model") == 0
    rows = rows_of(tmp_path / "few", "texts")
    assert {r["stratum"]: r.get("slice") for r in rows} == {
        "Cyrillic 1-16": "Cyrillic 1-16", "Latin 1-16": "Latin 1-16", "Latin 17-64": "Latin 17-64", "Latin 257-1024": None
    }  # fmt: skip
    jsonl(tmp_path / "t.jsonl", [{"text": t} for t in ["many words"] + [f"{c} {i}" for c in "яλאあ" for i in range(3)]])
    assert run("--from", tmp_path / "t.jsonl", "--n", 12, "--out", tmp_path / "s", "--no-model") == 0
    assert {r["slice"] for r in rows_of(tmp_path / "s", "texts")} == {"other"}


def test_equal_seeds_give_equal_bytes_in_any_order_of_the_rows(log, tmp_path):
    lines = log.read_text(encoding="utf-8").split("\n")[:-1]
    shuffled = tmp_path / "log.jsonl"
    first = list(dict.fromkeys(lines))  # a repeated text is read where it is first
    shuffled.write_text("\n".join(sorted(first[:2315])) + "\n", encoding="utf-8")
    straight = tmp_path / "straight" / "log.jsonl"
    straight.parent.mkdir()
    straight.write_text("\n".join(first[:2315]) + "\n", encoding="utf-8")
    for name, source, seed in (("a", log, 1), ("b", log, 1), ("c", log, 2), ("d", shuffled, 1), ("e", straight, 1)):
        assert run("--from", source, "--n", 100, "--out", tmp_path / name, "--no-model", "--seed", seed) == 0
    a, b, c = ([(f.name, f.read_bytes()) for f in sorted((tmp_path / n).iterdir())] for n in "abc")
    assert a == b
    assert a != c
    d, e = ({r["text"] for r in rows_of(tmp_path / n, "texts")} for n in "de")
    assert d == e


def test_texts_are_drawn_with_equal_chances_within_a_stratum(tmp_path):
    jsonl(tmp_path / "t.jsonl", [{"text": f"text {i}"} for i in range(40)])
    counts = Counter[str]()
    for seed in range(300):
        found = draw(Production("t", Source(str(tmp_path / "t.jsonl"))), Settings(8, seed))
        counts.update(d.unit.text for d in found.drawn)
    values = np.asarray([counts[f"text {i}"] for i in range(40)])
    assert values.sum() == 2400
    assert ((values - 60) ** 2 / (60 * 0.8)).sum() < 40 + 4 * 80**0.5  # chi-square, four deviations above its mean


def test_a_sample_of_a_retrieval_suite_is_one_with_all_judged_documents(beir, tmp_path, capsys):
    assert run("--from", beir, "--n", 20, "--out", tmp_path / "s", "--no-model", "--documents", 120) == 0
    suite = read_suite("s", tmp_path / "s")
    whole = read_suite("w", beir)
    assert len(suite.queries) == 20
    assert 120 <= len(suite.documents) <= 130
    assert "q0" not in suite.query_ids
    assert "d0" not in suite.document_ids
    assert "and 1 queries that need a document with such data" in capsys.readouterr().err
    texts = {whole.document_ids[k]: whole.texts[i] for k, i in enumerate(whole.documents)}
    for k, query in enumerate(suite.query_ids):
        there = whole.qrels[whole.query_ids.index(query)]
        assert {suite.document_ids[d]: g for d, g in suite.qrels[k].items()} == {
            whole.document_ids[d]: g for d, g in there.items()
        }
    for k, i in enumerate(suite.documents):
        assert texts[suite.document_ids[k]] == suite.texts[i]
    for name in ("queries", "corpus"):
        assert sum(r["weight"] for r in rows_of(tmp_path / "s", name)) == pytest.approx(1, abs=0.02)


def test_what_all_of_a_source_gives_is_the_source(beir, tmp_path):
    assert run("--from", beir, "--n", 40, "--documents", 600, "--out", tmp_path / "s", "--no-model", "--personal", "keep") == 0
    ours, whole = read_suite("s", tmp_path / "s"), read_suite("w", beir)
    assert (ours.texts, ours.queries, ours.documents, ours.qrels) == (whole.texts, whole.queries, whole.documents, whole.qrels)
    assert [r["_id"] for r in rows_of(tmp_path / "s", "corpus") if r.get("personal") == ["e-mail address"]] == ["d0"]


def test_pairs_stay_pairs_with_their_scores(tmp_path):
    rng = Random(5)
    jsonl(
        tmp_path / "p.jsonl", [{"sentence1": sentence(rng, 4), "sentence2": sentence(rng, 5), "score": i % 6} for i in range(80)]
    )
    assert run("--from", tmp_path / "p.jsonl", "--n", 30, "--out", tmp_path / "s", "--no-model") == 0
    suite, whole = read_suite("s", tmp_path / "s"), read_suite("w", tmp_path / "p.jsonl")
    known = {(whole.texts[p.a], whole.texts[p.b]): p.score for p in whole.pairs}
    assert len(suite.pairs) == 30
    assert all(known[suite.texts[p.a], suite.texts[p.b]] == p.score for p in suite.pairs)


def test_candidates_come_with_their_queries(tmp_path):
    assert run("--from", "core", "--n", 150, "--out", tmp_path / "s", "--no-model", "--config", ROOT) == 0
    suite = read_suite("s", tmp_path / "s")
    whole = read_suite("core", ROOT / "qguard" / "suites" / "core")
    for k, query in enumerate(suite.query_ids):
        if (there := whole.candidates.get(whole.query_ids.index(query))) is not None:
            assert [c.text for c in suite.candidates[k]] == [c.text for c in there]
    assert suite.candidates


def test_any_format_of_a_suite_is_a_source(tmp_path):
    rng = Random(6)
    texts = [sentence(rng, 5) for _ in range(50)]
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "t.csv").write_text("text,slice\n" + "".join(f"{t},a\n" for t in texts))
    for name in ("t.txt", "t.csv"):
        assert run("--from", tmp_path / name, "--n", 20, "--out", tmp_path / f"{name}-s", "--no-model") == 0
    a, b = ([r["text"] for r in rows_of(tmp_path / f"{n}-s", "texts")] for n in ("t.txt", "t.csv"))
    assert a == b


def test_a_folder_of_the_user_is_not_overwritten_and_no_old_part_stays(log, beir, tmp_path, capsys):
    out = tmp_path / "s"
    assert run("--from", beir, "--n", 10, "--out", out, "--no-model") == 0
    assert run("--from", log, "--n", 30, "--out", out, "--no-model") == 2
    assert "is not empty" in capsys.readouterr().err
    assert run("--from", log, "--n", 30, "--out", out, "--no-model", "--force") == 0
    assert sorted(f.name for f in out.iterdir()) == ["sample.json", "texts.jsonl"]
    (out / "notes.md").write_text("mine")
    assert run("--from", log, "--n", 30, "--out", out, "--no-model", "--force") == 2
    assert "notes.md" in capsys.readouterr().err
    assert (out / "notes.md").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_personal_data_is_refused_where_that_is_asked_for(log, tmp_path, capsys):
    assert run("--from", log, "--n", 30, "--out", tmp_path / "s", "--no-model", "--personal", "refuse") == 2
    err = capsys.readouterr().err
    assert "log.jsonl:2397  payment card  9999 9999 9999 9999" in err
    assert "nothing was written" in err
    assert not (tmp_path / "s").exists()


def test_a_source_of_personal_texts_alone_leaves_nothing(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("ann@acme.io\nbob@acme.io\n")
    assert run("--from", tmp_path / "t.txt", "--out", tmp_path / "s", "--no-model") == 3
    assert "nothing is left to draw from: all 2 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--n", "0"], "--n: expected 1 or more, found 0"),
        (["--pool", "21"], "--pool: expected 1 to 20, found 21"),
        (["--region", "XX"], "unknown country of --region 'XX'"),
        (["--n", "2"], "expected at least one of each"),
        (["--model", "minilm"], "--no-model runs no model"),
    ],
)
def test_mistakes_are_told_in_a_sentence(log, tmp_path, capsys, args, words):
    assert run("--from", log, "--out", tmp_path / "s", "--no-model", *args) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_broken_row_is_named(tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"text": "one"}\n{"text": 2}\n')
    assert run("--from", tmp_path / "t.jsonl", "--out", tmp_path / "s", "--no-model") == 2
    assert "t.jsonl:2: expected a string 'text'" in capsys.readouterr().err


def test_judgments_of_what_is_not_there_are_refused(beir, tmp_path, capsys):
    shutil.copytree(beir, tmp_path / "b")
    with (tmp_path / "b" / "qrels" / "test.tsv").open("a") as file:
        file.write("q3\tnowhere\t1\n")
    assert run("--from", tmp_path / "b", "--n", 10, "--out", tmp_path / "s", "--no-model") == 2
    assert "document 'nowhere' is judged, and the source does not hold it" in capsys.readouterr().err


def test_a_source_with_an_id_twice_gives_no_sample(beir, tmp_path, capsys):
    shutil.copytree(beir, tmp_path / "b")
    with (tmp_path / "b" / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "d9", "title": "", "text": "another text"}) + "\n")
    args = ["--n", 40, "--documents", 601, "--out", tmp_path / "s", "--no-model", "--personal", "keep"]
    assert run("--from", tmp_path / "b", *args) == 2
    assert "the id 'd9' is there twice; correct the source" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_a_hard_text_is_one_whose_neighbors_lie_close_around_the_tenth():
    rng = np.random.default_rng(0)
    documents = unit(rng.normal(size=(700, 16)).astype(np.float32))
    scores = np.sort(documents @ documents.T, axis=1)[:, ::-1]
    want = (scores[:, 5] - scores[:, 15]) / 10  # place 0 is the text itself
    assert gaps(documents) == pytest.approx(want, abs=1e-6)
    assert gaps(documents[:5], documents) == pytest.approx((scores[:5, 4] - scores[:5, 14]) / 10, abs=1e-6)
    assert gaps(documents, near=10, far=11) == pytest.approx(scores[:, 10] - scores[:, 11], abs=1e-6)
    assert gaps(documents[:2]) == pytest.approx([0, 0])
    assert gaps(documents[:1]).tolist() == [0]


def test_topics_of_words_are_told_apart_and_repeat():
    texts = [f"{topic} {topic} {i}" for i in range(60) for topic in ("river", "contract", "football")]
    found = clusters(hashed_words(texts), 1)
    assert (found == clusters(hashed_words(texts), 1)).all()
    groups = [Counter(found[k::3].tolist()).most_common(1)[0] for k in range(3)]
    assert all(count > 45 for _, count in groups) or len({label for label, _ in groups}) == 3


@pytest.mark.usefixtures("int8")
def test_topics_and_hardness_are_those_of_the_configured_model(small, tmp_path, capsys):
    args = ["--from", "own", "--config", small, "--n", 40]
    assert run(*args, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert "lengths in tokens of minilm; topics and hardness by its fp32" in out
    rows = rows_of(tmp_path / "a", "texts")
    assert {r["hardness"] for r in rows} == {"hard", "middle", "easy"}
    by = {h: [r["gap"] for r in rows if r["hardness"] == h] for h in ("hard", "middle", "easy")}
    assert max(by["hard"]) <= min(by["middle"]) <= max(by["middle"]) <= min(by["easy"])
    assert run(*args, "--out", tmp_path / "b") == 0
    assert (tmp_path / "a" / "texts.jsonl").read_bytes() == (tmp_path / "b" / "texts.jsonl").read_bytes()


@pytest.mark.usefixtures("int8")
def test_how_hard_a_query_is_is_told_by_the_documents(small, tmp_path):
    rng, folder = Random(7), tmp_path / "b"
    folder.mkdir()
    jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": sentence(rng, 5)} for i in range(40)])
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": sentence(rng, 3)} for i in range(12)])
    assert run("--from", folder, "--config", small, "--n", 6, "--out", tmp_path / "s") == 0
    session = Session(load_config(small))
    encode = encode_of(session, "minilm")
    queries, documents = (rows_of(folder, name) for name in ("queries", "corpus"))
    vectors = [unit(encode([r["text"] for r in of], ["query"] * len(of))) for of in (queries, documents)]
    want = dict(zip([r["_id"] for r in queries], gaps(*vectors), strict=True))
    for row in rows_of(tmp_path / "s", "queries"):
        assert row["gap"] == pytest.approx(want[row["_id"]], rel=0.02, abs=1e-5)
    assert all("gap" not in row for row in rows_of(tmp_path / "s", "corpus"))


# scipy takes None in sys.modules for an imported torch
MISSING = """import sys
class Missing:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize("given", [True, False])
def test_without_torch_fp32_is_what_the_project_gives(small, minilm, tmp_path, given):
    project = tmp_path / "p"
    shutil.copytree(small, project)
    if given:
        write(FP32.build(minilm), project / "fp32")
        give(project)
    lacking = tuple(name for name in HEAVY if name not in ("scipy", "torch"))
    words = ["sample", "--from", "own", "--n", "40", "--out", "s"]
    code = f"{MISSING}sys.modules.update(dict.fromkeys({lacking!r}))\nfrom qguard.cli import main\nsys.exit(main({words!r}))"
    environment = os.environ | {"QGUARD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=project, env=environment, capture_output=True, text=True)
    if given:
        assert done.returncode == 0, done.stderr
        assert "topics and hardness by its fp32" in done.stdout
    else:
        assert done.returncode == 3
        assert "needs transformers, which is not installed" in done.stderr
        assert "or draw without a model: add --no-model" in done.stderr
        assert not (project / "s").exists()


def test_an_artifact_finds_topics_and_hardness_too(small, int8, tmp_path, capsys):
    args = ["--from", "own", "--config", small, "--n", 40, "--artifact", int8.folder]
    assert run(*args, "--out", tmp_path / "a") == 0
    assert "topics and hardness by its artifact" in capsys.readouterr().out
