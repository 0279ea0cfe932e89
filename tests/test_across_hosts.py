"""``qguard merge --across-hosts``: each two hosts by the vectors that both kept, and never better than what could be compared."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qguard.cli import main
from qguard.config import load_config
from qguard.errors import UsageProblem
from qguard.judging.hosts import host_vectors
from qguard.judging.session import Session, Target
from qguard.metrics.bounds import Bound
from qguard.metrics.hosts import METRICS, compared
from qguard.precisions import parse_precision
from qguard.report.shape import checked
from qguard.vectors.hosts import HostVectors
from tests.processes import run_pytest

FACTS = {
    "model": "m", "suite": "s", "precision": "int8", "runtime": "onnx", "similarity": "cosine", "suite_sha256": "a1",
    "golden_sha256": "b2", "artifact_sha256": "c3",
}  # fmt: skip
CPUS = {"amd": "AMD EPYC 9R14", "old": "Intel Xeon E5-2680 v3", "arm": "Neoverse-N2"}


def best(scores, k=10):
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def nearest(queries, documents):
    """Of each text the ten nearest others."""
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    scores = units[0] @ units[1].T
    np.fill_diagonal(scores, -np.inf)
    return best(scores)


def made(noise=0.0, seed=1, texts=80, **facts):
    """What a host computed: fp32's vectors, moved by so much."""
    fp32 = np.random.default_rng(0).standard_normal((texts, 24))
    moved = fp32 + noise * np.random.default_rng(seed).standard_normal(fp32.shape)
    every = np.arange(texts)
    return HostVectors(moved.astype(np.float32), every, every, nearest(fp32, fp32), FACTS | facts)


def test_equal_vectors_differ_in_nothing():
    a = made(0.1)
    found = {m.name: m.value for m in compared(a, a)}
    assert set(found) == {m.name for m in METRICS}
    assert [found[f"hosts.{name}"] for name in ("cosine_min", "overlap@10", "top1")] == pytest.approx([1, 1, 1])
    assert found["hosts.mixed_overlap@10"] == found["hosts.reversed_overlap@10"] < 1  # both lost the same to fp32


def test_every_value_is_that_of_its_definition():
    a, b = made(0.1), made(0.2, seed=2)
    found = {m.name: m for m in compared(a, b)}
    v, w = a.vectors.astype(float), b.vectors.astype(float)
    near = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(v, w, strict=True)]
    assert found["hosts.cosine_min"].value == pytest.approx(min(near))
    assert found["hosts.cosine_min"].worst[0] == f"cosine {min(near):.4f}  text {int(np.argmin(near))}"

    def share(x, y):
        return np.mean([len(set(p) & set(q)) / 10 for p, q in zip(x.tolist(), y.tolist(), strict=True)])

    assert found["hosts.overlap@10"].value == pytest.approx(share(nearest(v, v), nearest(w, w)))
    assert found["hosts.mixed_overlap@10"].value == pytest.approx(share(a.neighbours, nearest(v, w)))
    assert found["hosts.reversed_overlap@10"].value == pytest.approx(share(a.neighbours, nearest(w, v)))
    assert found["hosts.top1"].value == pytest.approx(np.mean(nearest(v, v)[:, 0] == nearest(w, w)[:, 0]))
    low, high = found["hosts.overlap@10"].uncertainty().interval
    assert low < found["hosts.overlap@10"].value < high


def test_a_file_is_read_as_it_was_written_and_no_other(tmp_path):
    a = made(0.1)
    kept = a.write(tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / kept["file"]
    again = HostVectors.read(path, kept["sha256"])
    assert np.array_equal(again.vectors, a.vectors)
    assert {k: again.facts[k] for k in FACTS} == FACTS
    assert made(0.1).write(tmp_path) == kept  # the same bytes on every host
    with pytest.raises(UsageProblem, match="is not the file that the report names"):
        HostVectors.read(path, "0" * 64)
    for broken, message in (
        (replace(a, neighbours=a.neighbours + 80), "do not fit each other"),
        (replace(a, vectors=a.vectors * np.nan), "no number"),
        (replace(a, searchers=a.searchers[:3]), "do not fit"),
    ):
        kept = broken.write(tmp_path)
        with pytest.raises(UsageProblem, match=message):
            HostVectors.read(tmp_path / kept["file"], kept["sha256"])


def run_of(host="amd", vectors=None, bounds=None, **more):
    given = {"ranking.overlap@10": ">= 0.8", "embedding.cosine_min": ">= 0.9"} if bounds is None else bounds
    checks = [
        {
            "name": name, "suite": "s", "slice": None, "value": 0.97, "bound": Bound.parse(bound).to_json(), "margin": 0.01,
            "outcome": "pass", "items": 9, "worst": [], "on": "value", "interval": None, "accepted": None,
        }
        for name, bound in given.items()
    ]  # fmt: skip
    facts = {"cpu": CPUS[host], "class": "x86_64 avx2", "cores": 4, "system": "Linux", "python": "3.12", "versions": {}}
    run = {
        "model": "m", "suite": "s", "precision": "int8", "runtime": "onnx", "vectors": "float32", "verdict": "pass",
        "missing": [], "errors": [], "checks": checks, "latency": [], "host": facts, "cause": None, **more,
    }  # fmt: skip
    return run | ({"host_vectors": vectors} if vectors else {})


@pytest.fixture
def merge(tmp_path, capsys):
    """``merge(RUN, …, options=…)``: exit code, merged report and what was printed. ``merge.keep(0, …)`` writes vectors."""

    def call(*runs, options=(), across=True):
        paths = []
        for i, run in enumerate(runs):
            path = tmp_path / f"host{i}" / "report.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"schema": 2, "qguard": "0.1.0", "verdict": run["verdict"], "runs": [run]}))
            paths.append(str(path))
        outs = [str(tmp_path / f"m.{kind}") for kind in ("json", "md", "html")]
        flags = ["--across-hosts"] if across else []
        code = main(["merge", *paths, *flags, *options, *(x for out in outs for x in ("--out", out))])
        printed = capsys.readouterr()
        merged = json.loads((tmp_path / "m.json").read_text()) if code != 2 else None
        return code, merged, printed.out + printed.err

    def keep(i, vectors, place="vectors"):
        folder = tmp_path / f"host{i}" / place
        return vectors.write(folder)

    call.keep = keep
    call.folder = tmp_path
    return call


def test_hosts_that_agree_pass_and_the_table_says_how_far_they_differ(merge):
    a, b = merge.keep(0, made(0.05)), merge.keep(1, made(0.06))
    code, merged, out = merge(run_of("amd", a), run_of("old", b))
    assert code == 0, out
    (entry,) = merged["across"]
    assert (entry["verdict"], len(entry["pairs"]), entry["missing"]) == ("pass", 1, [])
    assert entry["pairs"][0]["same_artifact"]
    assert "int8@onnx m s, host 1 and host 2: pass, " in out
    assert "of the neighbors differ" in out
    assert checked(merged)["across"] == merged["across"]
    assert "across" not in merge(run_of("amd", a), run_of("old", b), across=False)[1]


def test_hosts_that_differ_fail_though_each_holds_its_gates(merge):
    a, b = merge.keep(0, made(0.02)), merge.keep(1, made(0.5, seed=7))
    code, merged, out = merge(run_of("amd", a), run_of("old", b))
    assert (code, merged["verdict"], {r["verdict"] for r in merged["runs"]}) == (1, "fail", {"pass"})
    failed = {c["name"] for c in merged["across"][0]["pairs"][0]["checks"] if c["outcome"] == "fail"}
    assert {"hosts.overlap@10", "hosts.cosine_min", "hosts.mixed_overlap@10", "hosts.reversed_overlap@10"} <= failed
    assert "FAIL hosts.cosine_min" in out
    page, text = ((merge.folder / f"m.{kind}").read_text() for kind in ("html", "md"))
    assert "Hosts compared with each other" in page
    assert "hosts.cosine_min 0." in page
    assert "| ❌ int8" in text
    # what was found stays when the merged report is merged again, though the vectors are gone
    (merge.folder / "once.json").write_text(json.dumps(merged))
    assert main(["merge", str(merge.folder / "once.json"), "--out", str(merge.folder / "twice.json")]) == 1
    assert json.loads((merge.folder / "twice.json").read_text())["across"] == merged["across"]


def test_gates_are_the_stricter_of_both_runs_or_those_of_the_command_line(merge):
    a, b = merge.keep(0, made(0.05)), merge.keep(1, made(0.06))
    strict = {"ranking.overlap@10": ">= 0.9999", "embedding.cosine_min": ">= 0.5"}
    code, merged, _ = merge(run_of("amd", a), run_of("old", b, strict))
    checks = {c["name"]: c for c in merged["across"][0]["pairs"][0]["checks"]}
    assert (code, checks["hosts.overlap@10"]["bound"]["number"], checks["hosts.cosine_min"]["bound"]["number"]) == (
        1,
        0.9999,
        0.9,
    )
    assert checks["hosts.top1"]["outcome"] == "reported"
    gates = [
        "--gate",
        "hosts.overlap@10 >= 0.5",
        "--gate",
        "hosts.mixed_overlap@10>=0.5",
        "--gate=hosts.reversed_overlap@10 >= .5",
    ]
    assert merge(run_of("amd", a), run_of("old", b, strict), options=gates)[0] == 0


def test_nothing_that_could_not_be_compared_passes(merge):
    a, b = merge.keep(0, made(0.05)), made(0.06).write(merge.folder / "elsewhere")
    code, merged, out = merge(run_of("amd", a), run_of("old"))
    assert (code, merged["across"][0]["verdict"]) == (3, "unmeasured")
    assert "its report names no vectors; run pytest there with --qguard-vectors=DIR" in out
    code, merged, out = merge(run_of("amd", a), run_of("old", b), run_of("arm", a | {"file": "../x"}))
    assert code == 3
    assert f"{b['file']} is missing; put it beside the report" in out
    assert merge(run_of("amd", a))[0] == 3  # one host
    code, merged, out = merge(run_of("amd", a), run_of("old", b), options=["--vectors", str(merge.folder / "elsewhere")])
    assert code == 0, out
    code, _, out = merge(run_of("amd", a, {}), run_of("old", b, {}), options=["--vectors", str(merge.folder / "elsewhere")])
    assert code == 3
    assert "no gate bounds how far hosts may differ" in out
    quantized = run_of("amd", vectors=None) | {"vectors": "binary"}
    code, _, out = merge(quantized, quantized | {"host": run_of("old")["host"]})
    assert code == 3
    assert "hosts are compared by float32 vectors of dense models" in out


def test_codes_are_left_out_where_the_vectors_that_they_are_made_of_are_compared(merge):
    a, b = merge.keep(0, made(0.05)), merge.keep(1, made(0.06))
    codes = [run_of(host) | {"vectors": "int8"} for host in ("amd", "old")]
    code, merged, out = merge(run_of("amd", a), run_of("old", b), *codes)
    assert (code, len(merged["across"])) == (0, 1), out


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"suite_sha256": "other"}, "judged other texts of the suite"),
        ({"golden_sha256": "other"}, "judged by another golden"),
        ({"precision": "bf16"}, "it is of another precision than its run"),
    ],
)
def test_vectors_of_other_runs_are_refused(merge, facts, message):
    a, b = merge.keep(0, made(0.05)), merge.keep(1, made(0.06, **facts))
    code, _, out = merge(run_of("amd", a), run_of("old", b))
    assert code == 2
    assert message in out
    code, _, out = merge(run_of("amd", a), run_of("old", merge.keep(1, made(0.06)) | {"sha256": "0" * 64}))
    assert code == 2
    assert "is not the file that the report names" in out


@pytest.mark.parametrize("damage", [{"host_vectors": 3}, {"host_vectors": {"file": "x"}}, {"host_vectors": ["x"]}])
def test_a_damaged_report_is_told_in_words(merge, damage):
    code, _, out = merge(run_of("amd") | damage, run_of("old"))
    assert code == 2
    assert "what it says of hosts and their vectors is damaged" in out


def test_other_files_are_named(merge):
    a, b = merge.keep(0, made(0.05)), merge.keep(1, made(0.06, artifact_sha256="d4"))
    code, merged, out = merge(run_of("amd", a), run_of("old", b))
    assert (code, merged["across"][0]["pairs"][0]["same_artifact"]) == (0, False)
    assert "other files: c3 and d4" in out


def test_options_that_would_do_nothing_are_refused(merge):
    code, _, out = merge(run_of(), across=False, options=["--gate", "hosts.top1 >= 0.5"])
    assert code == 2
    assert "--vectors and --gate are for comparing hosts" in out
    code, _, out = merge(run_of(), options=["--gate", "hosts.top2 >= 0.5"])
    assert code == 2
    assert "hosts.top1" in out
    assert merge(run_of(), options=["--gate", "hosts.top1 about 1"])[0] == 2


def test_two_runs_of_the_gate_are_compared(small, merge):
    """int8 and int8-dynamic of one model, as two hosts would give them that made their own files."""
    folder = merge.folder
    off = ("--qguard-latency=off", "--qguard-robustness=off", "--pyargs", "qguard.gate")
    code, out = run_pytest(
        small,
        *off,
        "--precision=int8,int8-dynamic",
        f"--qguard-vectors={folder / 'kept'}",
        f"--qguard-report={folder / 'r.json'}",
    )
    assert code == 0, out
    report = json.loads((folder / "r.json").read_text())
    runs = {run["precision"]: run for run in report["runs"]}
    assert all((folder / "kept" / run["host_vectors"]["file"]).exists() for run in runs.values())
    session = Session(load_config(small))
    both = [host_vectors(session, Target(parse_precision(name), "minilm", "own")) for name in runs]
    assert both[0].write(folder / "again") == runs["int8"]["host_vectors"]
    other = replace(both[1], facts=both[0].facts | {"artifact_sha256": both[1].facts["artifact_sha256"]})
    there = runs["int8"] | {"host": run_of("old")["host"], "host_vectors": other.write(folder / "kept")}
    code, _, out = merge(runs["int8"], there, options=["--vectors", str(folder / "kept")])
    assert code == 1
    assert "FAIL hosts.cosine_p01" in out
    assert "other files: " in out
    assert both[0].facts["artifact_sha256"] == runs["int8"]["artifact"]["sha256"]
    same = runs["int8"] | {"host": run_of("old")["host"]}
    assert merge(runs["int8"], same, options=["--vectors", str(folder / "kept")])[0] == 0
