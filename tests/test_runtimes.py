"""Runtimes as records, and those of another package that have no files and take texts, judged by the whole gate."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from qguard.encoders import TextEncoder, open_runtime
from qguard.encoders.runtimes import NO_FILES, RUNTIMES, TEXTS, RuntimeRecord
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem
from qguard.judging.invariance import measure_invariance
from tests.conftest import ROOT
from tests.processes import python, run_pytest

WHOLE = {
    "name": "acme", "open": "acme:Runtime", "takes": "texts", "files": "none", "devices": ("there",), "libraries": ("acme",),
    "batch": 8, "workers": 2, "timed": False,
}  # fmt: skip
SERVED = RuntimeRecord(**WHOLE)
SERVED_GATES = ("--precision", "int8@served")


@pytest.fixture
def project(tmp_path, small, int8):
    """pytest in a project with 120 texts, where a package with runtimes is installed: ``project(*args)``."""
    shutil.copytree(small, tmp_path / "project")
    entries = "served = tests.served.runtime:RUNTIMES\n[qguard.recipes]\nserved = tests.served.recipe:RECIPES"
    _install(tmp_path / "site", entries)

    def call(*args: str, **env: str) -> tuple[int, str]:
        path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
        return run_pytest(call.path, *args, PYTHONPATH=path, SERVED_MODEL=str(int8.folder), **env)

    call.path = tmp_path / "project"  # type: ignore[attr-defined]
    call.site = tmp_path / "site"  # type: ignore[attr-defined]
    call.model = str(int8.folder)  # type: ignore[attr-defined]
    return call


def _install(site, line):
    """What pip leaves of a package for others to find."""
    info = site / "acme_served-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-served\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[qguard.runtimes]\n{line}\n")


def test_what_is_served_passes_the_whole_gate_and_the_report_says_what_was_not_proved(project):
    reports = [f"--qguard-report=r.{kind}" for kind in ("json", "html", "md")]
    code, out = project("--precision", "int8@served,int8@served-ids", *reports, "--qguard-latency=gate")
    assert code == 0, out
    report = json.loads((project.path / "r.json").read_text())
    texts, ids = report["runs"]
    assert [(r["runtime"], r["verdict"], r["missing"]) for r in report["runs"]] == [
        ("served", "pass", []),
        ("served-ids", "pass", []),
    ]
    for run in report["runs"]:
        assert "artifact" not in run
        assert "test_artifact_is_quantized" not in run["tests"]
        assert run["latency"] == []
        assert run["details"]["provenance"]["source"] == "kept by its runtime"
        assert run["details"]["provenance"]["files"] == []
        assert {"artifact", "latency", "memory"} <= set(run["left_out"])
        assert not [key for key in run["details"]["provenance"]["gates"] if key.startswith(("artifact.", "memory."))]
    assert texts["details"]["provenance"]["versions"]["acme-served"] == "1.0"
    # where it computes is not this machine
    assert (texts["device"], texts["scope"]["machine"], ids["device"]) == ("somewhere", "somewhere", "cpu")
    # texts go out: their tokens are not proved, and cannot be cut or padded
    assert {"tokenizer", "invariance.padding", "invariance.equal_length"} <= set(texts["left_out"])
    assert "tokenizer" not in ids["left_out"]
    of_batches = [{c["name"] for c in run["checks"] if c["name"].startswith("invariance.")} for run in report["runs"]]
    order = {"invariance.batch_cosine_min", "invariance.batch_cosine_p01", "invariance.order", "invariance.order_p01"}
    assert of_batches[0] == order
    assert of_batches[1] > order
    # the same model: what a process of its own answers is what this one computes
    values = [{c["name"]: c["value"] for c in run["checks"] if c["slice"] is None} for run in report["runs"]]
    assert values[0]["ranking.overlap@10"] == pytest.approx(values[1]["ranking.overlap@10"], abs=0.005)
    said = "served takes texts: the model's own tokenizer gives the golden's token ids, but this one's is not proved"
    flat = " ".join(out.split())
    assert f"left out: tokenizer: {said}" in flat
    assert "left out: artifact: served has no files" in flat
    assert "latency, memory: served is not timed in this process" in flat
    for kind in ("html", "md"):
        assert "is not proved" in (project.path / f"r.{kind}").read_text()


def test_generated_texts_are_tried_on_what_is_served(project):
    with (project.path / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates."int8@served"]\n"robustness.cosine_min" = ">= 0.7"\n')  # of any text, less than of core's
    args = ("-k", "robustness", "--qguard-robustness=gate", "--hypothesis-seed=1", "--qguard-report=r.json")
    _, out = project(*SERVED_GATES, *args)
    (run,) = json.loads((project.path / "r.json").read_text())["runs"]
    assert run["tests"]["test_robustness"] == "pass", out
    names = {c["name"] for c in run["checks"]}
    assert {"robustness.cosine_min", "robustness.batch_cosine_min", "robustness.repeat_cosine_min"} <= names
    assert not names & {"robustness.token_mismatches", "robustness.padding_cosine_min"}
    assert {"robustness.token_mismatches", "robustness.padding"} <= set(run["left_out"])


def test_vectors_that_are_another_texts_fail(project):
    code, out = project(*SERVED_GATES, SERVED_MISTAKE="mixed up")
    assert code == 1
    assert "embedding.cosine" in out
    # fp32 itself is run from the model's files, and not asked for where the candidate is kept
    assert "the artifact computes something else: fp32@onnx still reproduces the golden" in " ".join(out.split())


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("tokens", "runtime 'served': expected a float array (16, dim) for 16 texts, found float32 (16, "),
        ("ends", "runtime 'served' failed on a batch of 16 texts: JSONDecodeError"),
    ],
)
def test_an_answer_that_is_none_is_an_error_in_words(project, mistake, words):
    code, out = project(*SERVED_GATES, "-k", "embeddings", SERVED_MISTAKE=mistake)
    assert code == 1
    assert words in " ".join(out.split())
    assert "Traceback" not in out


def test_what_needs_files_is_refused_before_anything_runs(project):
    for args, words in (
        (["--qguard-attest=v.json"], "a verdict is bound to an artifact's files, and int8@served has none"),
        (["--artifact=a"], "int8@served is kept by its runtime 'served', which reads no files"),
        (["--baseline-artifact=a"], "a baseline is for latency, which is not measured for int8@served here: served is not timed"),
    ):
        code, out = project(*SERVED_GATES, *args)
        assert code == 4
        assert words in out
    with (project.path / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates."int8@served"]\n"artifact.size_ratio" = "<= 0.3"\n')
    code, out = project(*SERVED_GATES, "-k", "embeddings")
    assert code == 1
    assert "gate artifact.size_ratio of int8@served would never be judged: served has no files" in " ".join(out.split())


@pytest.mark.long
def test_commands_say_what_they_need(project):
    call = (
        "from qguard.cli import main\n"
        "for args in {!r}:\n    print('CODE', main(args))"
    )  # fmt: skip
    wanted = [
        ["compare", "--precision", "int8@served,int8", "--json", "c.json"],
        ["quantize", "--precision", "int8@served", "--out", "new"],
        [
            "selftest",
            "--precision",
            "int8@served",
            "--fault",
            "padded-left",
            "--fault",
            "golden-missing",
            "--repeats",
            "1",
            "--jobs",
            "1",
            "--json",
            "s.json",
        ],
        ["calibrate", "--precision", "int8@served"],
    ]
    env = {"PYTHONPATH": os.pathsep.join([str(project.site), str(ROOT)]), "SERVED_MODEL": project.model}
    out = python(call.format(wanted), folder=project.path, **env)
    assert out.count("CODE 0") == 2, out
    served, plain = json.loads((project.path / "c.json").read_text())["rows"]
    assert (served["verdict"], served["bytes"], served["speed"], served["best"]) == ("pass", None, {}, False), out
    assert plain["best"] or plain["busy"], out  # what other work interrupts is not ranked
    assert plain["values"]["ranking.overlap@10"] == pytest.approx(served["values"]["ranking.overlap@10"], abs=0.005)
    assert "there are no files that could be read, hashed, copied or timed" in out
    assert not (project.path / "new").exists()
    verdicts = {c["fault"]: c["status"] for c in json.loads((project.path / "s.json").read_text())["results"]}
    assert verdicts == {"padded-left": "not applicable", "golden-missing": "caught"}, out
    assert "int8@served: served is not timed in this process" in out
    assert "Traceback" not in out


MISSES = [
    ("name", "a@b", "name: expected a word without @"),
    ("open", "acme", "open: expected 'module:Class' or something to call, found 'acme'"),
    ("takes", "", "takes: expected 'token_ids' or 'texts', found ''"),
    ("files", "", "files: expected 'onnx', 'safetensors', 'gguf' or 'none', found ''"),
    ("devices", (), "devices: expected where it computes"),
    ("libraries", (), "libraries: expected the distributions whose versions decide its results"),
    ("batch", 0, "batch: expected a batch size that suits it, in padded tokens or in texts, found 0"),
    ("workers", -1, "workers: expected the number of parallel batches"),
    ("timed", None, "timed: expected True or False"),
    ("timed", True, "timed: batches of token ids are timed, of a runtime that opens files; expected False, found True"),
]


@pytest.mark.parametrize(("part", "value", "words"), MISSES, ids=[f"{m[0]}={m[1]!r}" for m in MISSES])
def test_a_record_says_what_it_misses(part, value, words):
    assert list(SERVED.lacks()) == []
    (said,) = replace(SERVED, **{part: value}).lacks()
    assert said.startswith(words)


def test_prompts_are_those_of_a_runtime_that_takes_texts():
    assert [*replace(SERVED, takes="token_ids", prompts=True).lacks()] == [
        "prompts: token ids have their prompts in them; expected False with takes = 'token_ids', found True"
    ]


def test_a_record_that_is_not_complete_is_an_error_before_anything_runs(tmp_path, small):
    shutil.copytree(small, tmp_path / "project")
    _install(tmp_path / "site", "half = half:RUNTIME")
    (tmp_path / "site" / "half.py").write_text(
        "from qguard.encoders.runtimes import RuntimeRecord\nRUNTIME = RuntimeRecord('half')\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    code, out = run_pytest(tmp_path / "project", "--precision", "int8", PYTHONPATH=path)
    assert code == 4
    assert "runtime 'half' of acme-served is not complete: open: expected 'module:Class' or something to call, found ''" in out
    assert out.count("; takes: ") == out.count("; timed: expected True or False") == 1
    assert "Traceback" not in out


def test_every_runtime_that_is_opened_has_the_batch_and_workers_of_its_record(fp32_onnx, minilm):
    assert list(RUNTIMES)[:3] == ["onnx", "openvino", "torch"]
    for name, source in (("onnx", fp32_onnx), ("torch", minilm.root)):
        opened = open_runtime(name, source, "fp32")
        assert (opened.batch_tokens, opened.workers) == (RUNTIMES[name].batch, RUNTIMES[name].parallel)


def test_a_device_that_a_runtime_has_not_is_replaced_by_its_own():
    assert [RUNTIMES[name].device("cuda") for name in ("onnx", "openvino", "torch")] == ["cpu", "cpu", "cuda"]
    assert SERVED.device("cuda") == "there"


def test_only_what_a_runtime_cannot_show_is_left_out():
    assert [name for name in list(RUNTIMES)[:3] if RUNTIMES[name].left_out()] == []
    found = {
        m: bool(SERVED.cannot_measure(m))
        for m in ("artifact.opset", "invariance.padding_p01", "invariance.order", "memory.ratio")
    }
    assert found == {"artifact.opset": True, "invariance.padding_p01": True, "invariance.order": False, "memory.ratio": True}
    file_of_texts = replace(SERVED, files="onnx")
    assert file_of_texts.cannot_measure("artifact.opset") == ""
    assert "tokenizer" in file_of_texts.left_out()


@pytest.fixture
def lengths(minilm):
    """A runtime whose vectors say how long a text is and which role it has; and what it was asked."""
    asked = []

    def run(texts, roles):
        asked.append(list(zip(texts, roles, strict=True)))
        return np.asarray([[len(t), {None: 1, "query": 2, "document": 3}[r]] for t, r in zip(texts, roles, strict=True)], float)

    pipeline = replace(minilm.pipeline, prompts={"query": "q: ", "document": ""})
    tokenizer = TextTokenizer.open(minilm.root, minilm.pipeline)

    def encoder(**change):
        return TextEncoder(tokenizer, run, replace(SERVED, workers=1, **change), pipeline)

    return encoder, asked


def test_texts_go_out_in_batches_with_their_prompts_and_come_back_in_their_order(lengths):
    encoder, asked = lengths
    texts = [f"{'x' * n}" for n in (3, 9, 1, 7, 5)]
    found = encoder(batch=2).encode(texts, "query")
    assert found.dtype == np.float32
    assert found.tolist() == [[n + 3, 2] for n in (3, 9, 1, 7, 5)]
    assert [[text for text, _ in batch] for batch in asked] == [["q: " + "x" * n for n in b] for b in ((9, 7), (5, 3), (1,))]
    asked.clear()
    assert encoder(batch=9, prompts=True).encode(texts[:1], "query").tolist() == [[3, 2]]
    assert asked == [[("xxx", "query")]]


def test_what_needs_token_ids_says_so_of_a_runtime_that_takes_texts(lengths):
    encoder = lengths[0]()
    for need in (lambda: encoder.encode_ids([[1, 2]]), lambda: encoder.runtime, lambda: encoder.head):
        with pytest.raises(MeasurementProblem, match="'acme' takes texts; this measurement needs one that takes token ids"):
            need()
    with pytest.raises(MeasurementProblem, match="padding is measured with token ids"):
        encoder.encode_batches(encoder.rows(["a", "b"]), [[0, 1]], 4)
    with pytest.raises(MeasurementProblem, match="at least one text"):
        encoder.encode([])


def test_a_vector_that_depends_on_the_batch_is_seen_in_texts_too(harness, minilm):
    suite, ids = harness.suite("core"), harness.golden("minilm", "core").token_ids
    tokenizer = TextTokenizer.open(minilm.root, minilm.pipeline)

    def run(texts, roles):  # the longest text of a batch moves all others, the first one does too
        return np.asarray([[1.0, len(t), max(map(len, texts)), len(texts[0])] for t in texts])

    assert SERVED.takes == TEXTS
    assert SERVED.files == NO_FILES
    found = {m.name: m.value for m in measure_invariance(TextEncoder(tokenizer, run, SERVED, minilm.pipeline), suite, ids)}
    assert set(found) == {f"invariance.{n}" for n in ("batch_cosine_min", "batch_cosine_p01", "order", "order_p01")}
    assert found["invariance.batch_cosine_min"] < 0.9
    assert found["invariance.order"] < 0.999
