"""Vectors that are cut to their first dimensions: as the model's files say, or as a precision asks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.accepted.scores import Scope
from qguard.cli import main
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.errors import UsageProblem
from qguard.gates import gates_for
from qguard.judging.compare import swept
from qguard.judging.session import Session, Target
from qguard.models.model import resolve
from qguard.plugin.state import as_json
from qguard.precisions import parse_precision
from tests import families

TEXTS = 120


def project(folder, **models):
    """A project of tiny models, ``declared`` each, and some texts of core."""
    from qguard.suites import load_suite

    texts = [t for t in load_suite("core", {}).texts if t.strip()][::5][:TEXTS]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    families.write("bert", folder / "one")
    for name, declared in models.items():
        shutil.copytree(folder / "one", folder / name)
        (folder / name / "config_sentence_transformers.json").write_text(json.dumps(declared))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\n' + "".join(f'{n} = "{n}"\n' for n in models)
        + '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.qguard.robustness]\nmode = "off"\n'
    )  # fmt: skip
    session = Session(load_config(folder))
    for name in models:
        golden.record(session.model(name), session.suite("own"), session.config.golden_root, "tests")
    return session


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``whole`` and the same model with ``truncate_dim`` in its files."""
    cut = {"truncate_dim": 24, "similarity_fn_name": "dot"}
    return project(tmp_path_factory.mktemp("cut"), whole={}, cut=cut)


def test_a_declared_truncation_comes_behind_all_modules(made):
    whole, cut = (made.golden(name, "own") for name in ("whole", "cut"))
    assert cut.vectors.shape == (TEXTS, 24)
    assert np.allclose(cut.vectors, whole.vectors[:, :24], atol=1e-6)  # by sentence-transformers; Transformers agreed
    assert np.linalg.norm(cut.vectors, axis=1).max() < 0.99
    pipeline = made.model("cut").pipeline
    assert (pipeline.normalize, pipeline.unit_length, pipeline.similarity) == (True, False, "dot")
    assert cut.manifest["pipeline"]["truncate_dim"] == 24
    assert "truncate_dim" not in whole.manifest["pipeline"]
    target = Target(parse_precision("fp32@onnx"), "cut", "own")
    assert made.encoder(target.precision, "cut").encode(["a"]).shape == (1, 24)
    checks = [c for f in ("embedding", "similarity", "ranking") for c in made.checks(target, f)]
    assert [c.label for c in checks if c.outcome == "fail"] == []
    gates = {g.metric: g.bound.number for g in made.gates(target.precision, "cut")}
    assert (
        gates["embedding.norm_error"]
        > {g.metric: g.bound.number for g in made.gates(target.precision, "whole")}["embedding.norm_error"]
    )  # lengths vary, and count


def test_a_truncation_that_keeps_everything_changes_nothing(made, tmp_path):
    folder = families.write("bert", tmp_path / "model")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"truncate_dim": 1000}))
    model = resolve("m", str(folder))
    found = open_encoder("torch", model.folder, model.pipeline, "fp32").encode(["a text"])
    assert found.shape == (1, families.WIDE)
    assert np.linalg.norm(found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "dims", "runtime", "vectors"),
    [
        ("fp32:256", 256, "onnx", "float32"), ("int8:1", 1, "onnx", "float32"), ("int8:256+binary", 256, "onnx", "binary"),
        ("int8:64@openvino+int8", 64, "openvino", "int8"), ("bf16:96@torch", 96, "torch", "float32"),
    ],
)  # fmt: skip
def test_dimensions_stand_behind_the_name(text, dims, runtime, vectors):
    found = parse_precision(text)
    assert (found.dims, found.runtime, found.vectors) == (dims, runtime, vectors)
    assert found.plain == parse_precision(f"{text.partition(':')[0]}@{runtime}")
    assert parse_precision(str(found)) == found
    assert found.label == text.partition("@")[0].partition("+")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int8:0", r"'int8:0': expected a number of dimensions from 1 on, such as int8:256, found '0'"),
        ("int8:-8", "found '-8'"), ("int8:", "found ''"), ("int8:many+binary", "found 'many'"), ("int8:2.5", "found '2.5'"),
        ("int8:²", "found '²'"), ("int8@onnx:64", "dimensions stand behind the name: int8:64@onnx"),
        ("int9:64", "unknown precision 'int9:64'"),
    ],
)  # fmt: skip
def test_what_is_no_number_of_dimensions_is_said_in_words(text, words):
    with pytest.raises(UsageProblem, match=words):
        parse_precision(text)


def values(session, precision, name="whole", families=("ranking", "similarity", "truncation")):
    target = Target(parse_precision(precision), name, "own")
    return {c.name: c for f in families for c in session.checks(target, f) if c.slice is None}


def cosines(v):
    units = v / np.linalg.norm(v, axis=1, keepdims=True)
    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    return scores


def overlap(a, b):
    ten = [np.argsort(-cosines(v.astype(np.float64)), axis=1, kind="stable")[:, :10] for v in (a, b)]
    return np.mean([len({*x} & {*y}) / 10 for x, y in zip(*ten, strict=True)])


@pytest.mark.parametrize("precision", ["fp32:24", "int8-dynamic:24", "int8-dynamic:24+binary"])
def test_losses_by_dimensions_and_by_quantization_are_told_apart(made, precision):
    target = Target(parse_precision(precision), "whole", "own")
    fp32, candidate = made.golden("whole", "own").vectors, made.embeddings(target)
    stored = np.sign(candidate[:, :24]) if "binary" in precision else candidate[:, :24]
    found = {name: c.value for name, c in values(made, precision).items()}
    assert found["ranking.overlap@10"] == pytest.approx(overlap(fp32[:, :24], stored), abs=2e-3)
    assert found["truncation.overlap@10"] == pytest.approx(overlap(fp32, fp32[:, :24]), abs=2e-3)
    assert found["truncation.total_overlap@10"] == pytest.approx(overlap(fp32, stored), abs=2e-3)
    assert found["truncation.size_ratio"] == (3 if "binary" in precision else 96) / (4 * families.WIDE)
    compared = made.comparison(target)
    assert np.allclose(np.linalg.norm(compared.golden, axis=1), 1, atol=1e-6)  # as encode(normalize_embeddings=True)
    assert compared.whole.shape == (TEXTS, families.WIDE)
    if "binary" in precision:
        assert "truncation.total_rescored_overlap@10" in found
        assert "truncation.total_p99_error" not in found
    assert "truncation.p99_error" in found


def test_vectors_are_those_of_sentence_transformers_encode(made):
    from sentence_transformers import SentenceTransformer

    target = Target(parse_precision("fp32:24"), "whole", "own")
    st = SentenceTransformer(str(made.model("whole").folder), device="cpu", local_files_only=True)
    theirs = st.encode(list(made.suite("own").texts), truncate_dim=24, normalize_embeddings=True)
    assert np.allclose(made.cut(target, made.golden("whole", "own").vectors), theirs, atol=1e-6)
    raw = Target(parse_precision("fp32:8"), "cut", "own")
    assert made.cut(raw, made.golden("cut", "own").vectors).shape == (TEXTS, 8)
    assert np.linalg.norm(made.cut(raw, made.golden("cut", "own").vectors), axis=1).max() < 0.9


def test_one_build_and_one_encoding_serve_all_dimensions(made):
    plain, cut = (Target(parse_precision(p), "whole", "own") for p in ("int8-dynamic", "int8-dynamic:8+int8"))
    assert made.embeddings(plain) is made.embeddings(cut)
    assert made.artifact(plain.precision, "whole") is made.artifact(cut.precision, "whole")
    names = [f.name for f in made.families(cut)]
    assert "truncation" in names
    assert not {"robustness", "latency"} & set(names)
    assert "truncation" not in [f.name for f in made.families(plain)]


def test_more_dimensions_than_the_model_has_are_refused(made):
    with pytest.raises(UsageProblem, match="fp32:65: model 'whole' has 64 dimensions; expected 1 to 64, found 65"):
        made.targets([parse_precision("fp32:24"), parse_precision("fp32:65")])
    assert len(made.targets([parse_precision("fp32:24")])) == 2
    assert made.comparison(Target(parse_precision("fp32:64"), "whole", "own")).candidate.shape == (TEXTS, 64)


def test_quantization_keeps_its_gates_and_truncation_gets_those_of_the_project():
    int8, cut, bits = (parse_precision(p) for p in ("int8", "int8:256", "int8:256+binary"))
    keys = {g.key: g.bound for g in gates_for(int8, {})}
    assert {g.key: g.bound for g in gates_for(cut, {})} == {k: b for k, b in keys.items() if not k.startswith("robustness.")}
    assert gates_for(bits, {}) == gates_for(parse_precision("int8+binary"), {})
    own = {
        "int8": {"ranking.top1": ">= 0.1", "robustness.cosine_min": ">= 0.1"}, ":256": {"truncation.overlap@10": ">= 0.6"},
        "int8:256": {"ranking.top1": ">= 0.2", "truncation.total_overlap@10": ">= 0.5"}, "int8:128": {"ranking.rbo": ">= 0.3"},
        "int8:256+binary": {"truncation.total_overlap@10": ">= 0.4"},
    }  # fmt: skip
    found = {g.key: g.bound.number for g in gates_for(cut, own)}
    assert found["ranking.top1"] == 0.2
    assert (found["truncation.overlap@10"], found["truncation.total_overlap@10"]) == (0.6, 0.5)
    assert "ranking.rbo" not in found
    found = {g.key: g.bound.number for g in gates_for(bits, own)}
    assert (found["truncation.overlap@10"], found["truncation.total_overlap@10"]) == (0.6, 0.4)
    assert not any(g.metric.startswith("truncation.") for g in gates_for(int8, own))


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ("int8", "truncation.overlap@10", r'needs a precision with fewer dimensions; bound it under .*"int8:256"'),
        ("int8:256", "robustness.cosine_min", "never be judged of a precision with fewer dimensions"),
        ("int8:none", "ranking.top1", "expected a number of dimensions"),
    ],
)
def test_a_gate_that_would_never_be_judged_is_an_error(table, key, words, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.qguard.models]\nm = "m"\n[tool.qguard.gates."{table}"]\n"{key}" = ">= 0.5"\n'
    )
    with pytest.raises(UsageProblem, match=words):
        load_config(tmp_path)


def test_a_gate_on_truncation_is_judged(made, tmp_path):
    folder = made.config.golden_root.parent
    text = (folder / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(text + '[tool.qguard.gates.":24"]\n"truncation.overlap@10" = ">= 0.999"\n')
    try:
        session = Session(load_config(folder))
    finally:
        (folder / "pyproject.toml").write_text(text)
    check = values(session, "fp32:24", families=("truncation",))["truncation.overlap@10"]
    assert (check.outcome, check.bound.number) == ("fail", 0.999)
    assert Scope.of(parse_precision("fp32:24"), "cpu", {"suite": "s", "weights": "w"}).precision == "fp32:24@onnx"


def test_compare_sweeps_dimensions_precisions_and_stored_vectors(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("qguard.judging.compare.speed", lambda *_: (1.0, False))
    config, file = made.config.golden_root.parent, tmp_path / "rows.json"
    asked = ["--precision", "fp32,int8-dynamic", "--dims", "64,16", "--vectors", "float32,binary"]
    assert main(["compare", *asked, "--model", "whole", "--config", str(config), "--json", str(file)]) == 0
    rows = {r["precision"]: r for r in json.loads(file.read_text())["rows"]}
    names = [f"{p}:{d}{v}" for p in ("fp32", "int8-dynamic") for d in (64, 16) for v in ("", "+binary")]
    assert list(rows) == names
    assert [rows[n]["vector_bytes"] for n in names] == [256, 8, 64, 2] * 2
    for name, row in rows.items():
        alone, total = row["values"]["truncation.overlap@10"], row["values"]["truncation.total_overlap@10"]
        assert (alone == 1) is (":64" in name)
        assert total == (pytest.approx(alone) if name in ("fp32:64", "fp32:16") else pytest.approx(total))
        assert (row["values"]["ranking.overlap@10"] == pytest.approx(1)) is name.startswith("fp32") or "+" in name
    assert rows["fp32:64"]["best"]
    assert rows["int8-dynamic:16+binary"]["best"]  # the smallest of all
    out = capsys.readouterr().out
    assert "by dimensions" in out
    assert "vector B" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dims", "0"], "expected a number of dimensions from 1 on"), (["--dims", ","], "expected values separated by commas"),
        (["--vectors", "int7"], "int7"), (["--precision", "fp32:8", "--dims", "8"], "fp32:8 says that itself"),
        (["--precision", "fp32+int8", "--vectors", "int8"], r"fp32\+int8 says that itself"),
    ],
)  # fmt: skip
def test_compare_says_what_cannot_be_swept(options, words):
    args = dict(zip(options[::2], options[1::2], strict=True))
    with pytest.raises(UsageProblem, match=words):
        swept([parse_precision(args.get("--precision", "fp32"))], args.get("--dims"), args.get("--vectors"))


def test_the_summary_tells_both_losses_and_the_advice_measures_them_apart(made):
    from qguard.judging.facts import facts
    from qguard.report.advice import Case, steps
    from qguard.report.terminal import summary_lines

    target = Target(parse_precision("fp32:24+binary"), "whole", "own")
    checks = [c for f in ("ranking", "truncation") for c in made.checks(target, f)]
    run = {
        **as_json(target), "verdict": "pass", "checks": [c.to_json() for c in checks], "latency": [], "errors": [], "missing": [],
        **facts(made, target),
    }  # fmt: skip
    whole = {c.name: c.value for c in checks if c.slice is None}
    alone, both = whole["truncation.overlap@10"], whole["truncation.total_overlap@10"]
    out = "\n".join(summary_lines({"schema": 2, "runs": [run]}))
    assert "3 bytes per vector, float32 256" in out
    assert f"overlap@10 with whole fp32: {alone:.4f} by fewer dimensions alone, {both:.4f} in all" in out
    failed = [c for c in checks if c.name == "ranking.top1" and c.slice is None]
    case = Case("int8:24", "int8:24", "binary", "own", failed)
    assert "pytest --precision int8:24,fp32:24+binary --qguard-suite own" in [s.command for s in steps(case)]
