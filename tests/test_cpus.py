"""An artifact on CPUs that are emulated: names, what QEMU takes away, the sample, the cache, and real QEMU where it is installed.

Most of it needs no QEMU: a program stands in for it that knows its options, prints its warnings and runs Python on this CPU.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qguard.config import load_config
from qguard.encoders.elsewhere import ElsewhereRuntime
from qguard.errors import ArtifactProblem, MeasurementProblem, UsageProblem
from qguard.judging import cpus
from qguard.judging.families import left_out
from qguard.judging.session import Session, Target
from qguard.machine import emulated
from qguard.machine.emulated import ROOT, Emulator, emulator, ended, said
from qguard.machine.known_cpus import ARM, KNOWN, X86, machine_of, saturates, words
from qguard.metrics.cpus import METRICS, SAME, Sampled
from qguard.precisions import parse_precision
from qguard.report import assemble
from qguard.report.as_html import render as as_html
from qguard.report.as_markdown import render as as_markdown
from qguard.report.cpus import rows
from qguard.report.terminal import summary_lines
from qguard.suites.spread import spread
from tests.processes import run_pytest

QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
real = pytest.mark.skipif(QEMU is None, reason="qemu-user-static is not installed")
PROGRAM = emulated.PROGRAM[X86]
NAMES = ("Nehalem", "Haswell", "Conroe", "EPYC-Milan", "Cascadelake-Server", "Broken")
STANDS_IN = """#!/bin/sh
case "$1" in --version) echo "qemu-x86_64 version 99.1 (a program that stands in for it)"; exit;; esac
shift
if [ "$1" = help ]; then printf 'Available CPUs:\\n'; for m in {names}; do echo "x86 $m    (alias configured)"; done; exit; fi
warn="{program}: warning: TCG doesn't support requested feature: CPUID"
case "$1" in
  Cascadelake-Server) echo "$warn.07H:EBX.avx512f [bit 16]" >&2; echo "$warn.01H:ECX.pcid [bit 17]" >&2;;
  Broken) echo "$warn.01H:ECX.pcid [bit 17]" >&2; echo "uncaught target signal 4 (Illegal instruction)" >&2; exit 132;;
  *) echo "$warn.01H:ECX.pcid [bit 17]" >&2;;
esac
shift
exec "$@"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    path = tmp_path / "qemu-x86_64-other"
    path.write_text(STANDS_IN.format(names=" ".join(NAMES), program=path.name))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(PROGRAM, str(path))
    return path


# ---- names, and what is taken away ----


@pytest.mark.parametrize(
    ("name", "model"),
    [("haswell", "Haswell"), ("MILAN", "EPYC-Milan"), ("cascade-lake", "Cascadelake-Server"), ("conroe", "Conroe")],
)
def test_a_cpu_has_the_name_that_qemu_has_for_it_or_a_short_one(name, model):
    assert Emulator("qemu", "7.2", NAMES).model(name) == model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hoswell", r"QEMU 7\.2 has no such CPU; expected one of Nehalem, Haswell, Cascadelake-Server, EPYC-Milan, or another"),
        ("genoa", r"qemu -cpu help"),
        ("neoverse-n1", r"QEMU 7\.2 has no such CPU"),
    ],
)
def test_a_cpu_that_is_not_there_is_refused_with_those_that_are(name, message):
    with pytest.raises(UsageProblem, match=message):
        Emulator("/usr/bin/qemu", "7.2", NAMES).model(name)


def test_without_qemu_the_package_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(PROGRAM, raising=False)
    with pytest.raises(
        UsageProblem, match="qemu-x86_64-static is not installed; on Debian and Ubuntu: apt-get install qemu-user-static"
    ):
        emulator()
    monkeypatch.setenv(PROGRAM, "nowhere")
    with pytest.raises(UsageProblem, match=f"{PROGRAM}=nowhere: there is no such program"):
        emulator()


def test_another_program_is_no_emulator(monkeypatch):
    monkeypatch.setenv(PROGRAM, "true")
    with pytest.raises(UsageProblem, match="expected QEMU's program"):
        emulator()


def test_another_machine_emulates_nothing(monkeypatch):
    monkeypatch.setattr(emulated.platform, "machine", lambda: "aarch64")
    with pytest.raises(UsageProblem, match="needs Linux on x86-64, found Linux on aarch64"):
        emulator()


def test_an_aarch64_cpu_needs_a_python_for_it(monkeypatch, tmp_path):
    assert {k.machine for k in KNOWN if machine_of(k.model) != k.machine} == set()
    assert {machine_of(s) for k in KNOWN for s in k.short if k.machine == ARM} == {ARM}
    script = tmp_path / "qemu-aarch64"
    script.write_text('#!/bin/sh\nprintf "qemu-aarch64 version 9.0\\nAvailable CPUs:\\n  a64fx\\n"\n')
    script.chmod(0o755)
    monkeypatch.setenv(emulated.PROGRAM[ARM], str(script))
    monkeypatch.delenv(ROOT, raising=False)
    with pytest.raises(UsageProblem, match=f"{ROOT} is not set; docs/cpus.md says how to make one"):
        emulator("graviton2")
    monkeypatch.setenv(ROOT, str(tmp_path))
    with pytest.raises(UsageProblem, match="has no usr/bin/python3"):
        emulator("graviton2")
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    for name in ("python3.13", "python3-config"):
        (tmp_path / "usr" / "bin" / name).touch()
    found = emulator("A64FX")
    start = (str(script), "-L", str(tmp_path), "-cpu", "a64fx", str(tmp_path / "usr" / "bin" / "python3.13"))
    assert found.started(found.model("A64FX")) == start


def test_a_feature_that_is_taken_away_is_refused_where_it_computes_and_told_elsewhere(stand_in):
    assert emulator().missing("Haswell") == ("pcid",)
    with pytest.raises(UsageProblem, match=r"QEMU 99\.1 does not emulate avx512f; what runs is not a Cascadelake-Server"):
        emulator().missing("Cascadelake-Server")


def test_a_cpu_with_more_than_a_real_one_has_is_another_one(stand_in):
    """The program that stands in runs on this CPU, whatever name it is given."""
    told = emulator().told("Conroe")
    assert told.versions["onnxruntime"]
    if "AVX2" not in told.features:
        pytest.skip("this CPU has no AVX2")
    with pytest.raises(UsageProblem, match=r"gives it AVX.*, which a real one does not have"):
        emulator().told("Nehalem")


def test_what_does_not_run_is_told_without_warnings(stand_in):
    with pytest.raises(MeasurementProblem, match=r"Python does not run on Broken of QEMU 99\.1: uncaught target signal 4"):
        emulator().missing("Broken")
    assert ended(-9) == "killed by SIGKILL"
    assert ended(3) == "exit status 3, no message"
    assert said("a: warning: TCG doesn't support requested feature: CPUID.01H:ECX.pcid [bit 17]\n\nwhat failed\n") == [
        "what failed"
    ]


def test_vnni_decides_whether_products_saturate():
    assert saturates(X86, ["AVX2", "FMA3"])
    assert not saturates(X86, ["AVX2", "AVX512F", "AVX512VNNI"])
    assert not saturates(ARM, ["ASIMDDP"])
    assert words(X86, ["AVX2", "SSE42", "OTHER"]) == "x86_64 sse4_2 avx2"


# ---- the sample ----


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 200), st.sampled_from("abc")), min_size=1, max_size=120), st.integers(1, 60))
def test_a_sample_has_so_many_texts_of_every_slice_by_its_share(texts, most):
    lengths, slices = [n for n, _ in texts], [s for _, s in texts]
    found = spread(lengths, slices, most)
    assert found == sorted(set(found))
    assert len(found) == min(most, len(texts))
    assert found == spread(lengths, slices, most)
    if most >= len(set(slices)):
        assert {slices[i] for i in found} == set(slices)
    for name in set(slices):
        share = slices.count(name) * most / len(texts)
        if len(texts) > most and share >= 1 and all(slices.count(other) * most / len(texts) >= 1 for other in set(slices)):
            assert abs(sum(slices[i] == name for i in found) - share) < 1.5


def test_a_sample_reaches_from_short_to_long():
    lengths = list(range(1, 101))
    found = [lengths[i] for i in spread(lengths, [None] * 100, 10)]
    assert found == [6, 16, 26, 36, 46, 56, 66, 76, 86, 96]


@pytest.mark.parametrize("given", ["11", "0", "-3", "few", "", "1e3"])
def test_how_many_texts_is_a_number_or_all(given):
    assert (cpus.parse_texts(None), cpus.parse_texts("all"), cpus.parse_texts("12")) == (48, 0, 12)
    with pytest.raises(UsageProblem, match="expected a number of texts from 12 on, or all"):
        cpus.parse_texts(given)
    with pytest.raises(UsageProblem, match="is for emulated CPUs: give --cpu NAME"):
        cpus.parse_texts("48", ())


# ---- what is measured ----


@pytest.fixture(scope="module")
def native(small):
    session = Session(load_config(small))
    target = Target(parse_precision("int8"), "minilm", "own")
    return session.comparison(target)


def test_equal_vectors_differ_in_nothing_and_turned_ones_show_in_every_value(native):
    rows = list(range(0, len(native.suite.texts), 5))
    sampled = Sampled(native, rows, native.candidate[rows])
    same = {m.name: m.value for m in sampled.of_native(sampled.vectors)}
    assert same == pytest.approx(dict.fromkeys(same, 1.0))
    turned = sampled.vectors + 0.03 * np.random.default_rng(0).standard_normal(sampled.vectors.shape)
    there = {m.name: m.value for m in [*sampled.of_fp32(turned), *sampled.of_native(turned)]}
    here = {m.name: m.value for m in sampled.of_fp32(sampled.vectors)}
    assert set(there) == {m.name for m in METRICS}
    assert there["cpu.native_cosine_min"] < 0.95
    assert there["cpu.native_overlap@10"] < 1
    assert there["cpu.cosine_mean"] < here["cpu.cosine_mean"] - 0.05
    assert there["cpu.overlap@10"] < here["cpu.overlap@10"]


def test_of_all_texts_the_values_are_those_of_the_suite(native):
    from qguard.families import measure

    sampled = Sampled(native, range(len(native.suite.texts)), native.candidate)
    of_suite = {m.name: m.value for f in ("embedding", "similarity", "ranking") for m in measure(native, f) if m.slice is None}
    found = {SAME[m.name]: m.value for m in sampled.of_fp32(native.candidate)}
    assert found == pytest.approx({name: of_suite[name] for name in found})
    assert all(sampled.judged(name) for name in SAME)
    part = Sampled(native, range(50), native.candidate[:50])
    assert [name for name in SAME if part.judged(name)] == [
        "cpu.cosine_mean", "cpu.cosine_min", "cpu.norm_error", "cpu.max_error", "cpu.p99_error",
    ]  # fmt: skip
    assert Sampled(native, range(100), native.candidate[:100]).judged("cpu.cosine_p01")


def session_of(folder, *, names=("Conroe",), texts=16, **gates):
    config = load_config(folder)
    if gates:
        config = config.model_copy(update={"gates": {"int8": gates["gates"]}})
    return Session(config, cpus=names, cpu_texts=texts), Target(parse_precision("int8"), "minilm", "own")


def test_the_same_kernels_give_the_same_vectors_and_the_precision_judges_them(stand_in, small, tmp_path, monkeypatch):
    artifact = Session(load_config(small)).artifact(parse_precision("int8"), "minilm")
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path))
    session, target = session_of(small)
    monkeypatch.setattr(Session, "plain_artifact", lambda *_: artifact)
    checks = {c.label: c for c in session.checks(target, "cpu")}
    assert checks["cpu.native_cosine_min[Conroe]"].value == pytest.approx(1)
    assert checks["cpu.native_overlap@10[Conroe]"].value == 1
    judged = {name: c for name, c in checks.items() if c.bound}
    assert {c.outcome for c in judged.values()} == {"pass"}
    worst = judged["cpu.cosine_mean[Conroe]"].worst
    assert worst[0].startswith("cosine 0.99")
    assert worst[-1].startswith("on this CPU the same 16 texts give 0.99")
    (facts,) = cpus.facts(session, target)
    assert (facts["texts"], facts["of"], facts["host"]["emulated"]) == (16, 117, "QEMU 99.1")
    assert facts["host"]["without"] == ["pcid"]
    assert "cores" not in facts["host"]
    assert facts["exact_products"] == saturates(X86, facts["host"]["features"])

    # a second run starts no worker, and a damaged batch is computed again
    def never(*_, **__):
        raise AssertionError("it was kept")

    started = cpus.ElsewhereRuntime
    monkeypatch.setattr(cpus, "ElsewhereRuntime", never)
    again, _ = session_of(small)
    assert np.array_equal(cpus.computed(again, target, "Conroe").vectors, cpus.computed(session, target, "Conroe").vectors)
    kept = sorted((tmp_path / "cpus").glob("*/*.npy"))
    kept[0].write_bytes(b"no array")
    kept[1].write_bytes(kept[1].read_bytes()[:-8])
    monkeypatch.setattr(cpus, "ElsewhereRuntime", started)
    mended, _ = session_of(small)
    assert np.array_equal(cpus.computed(mended, target, "Conroe").vectors, cpus.computed(session, target, "Conroe").vectors)


def test_a_gate_of_the_project_wins_and_the_cpu_that_is_named_wins_most(stand_in, small):
    from qguard.metrics.bounds import Bound

    gates = {
        "cpu.cosine_mean": Bound(">=", 0.5), "cpu.cosine_mean[Conroe]": Bound(">=", 0.99999),
        "cpu.native_overlap@10[*]": Bound(">=", 0.9), "embedding.cosine_min": Bound(">=", 0.3),
    }  # fmt: skip
    session, target = session_of(small, gates=gates)
    found = {c.name: c for c in session.checks(target, "cpu")}
    assert (found["cpu.cosine_mean"].outcome, found["cpu.cosine_mean"].bound.number) == ("fail", 0.99999)
    assert found["cpu.native_overlap@10"].outcome == "pass"
    assert found["cpu.cosine_min"].bound.number == 0.3
    assert found["cpu.top1"].outcome == "reported"


def test_a_verdict_says_nothing_of_emulated_cpus():
    from qguard.attest.evidence import refuse_cpus

    refuse_cpus(())
    with pytest.raises(UsageProblem, match="not of CPUs that are emulated, found --cpu Haswell"):
        refuse_cpus(("Haswell",))


def test_a_gate_on_a_cpu_that_nobody_knows_is_refused(stand_in, small):
    from qguard.metrics.bounds import Bound

    session, target = session_of(small, gates={"cpu.cosine_mean[conroe]": Bound(">=", 0.5)})
    with pytest.raises(UsageProblem, match=r"gate cpu\.cosine_mean\[conroe\] would never be judged"):
        session.targets([target.precision])


def test_a_cpu_that_fails_leaves_the_others_judged(stand_in, small):
    from qguard.gates.check import PartlyMeasured

    session, target = session_of(small, names=("Broken", "Conroe"))
    with pytest.raises(PartlyMeasured, match="Broken: Python does not run on Broken") as found:
        session.checks(target, "cpu")
    assert {c.slice for c in found.value.checks} == {"Conroe"}


def test_a_worker_that_is_killed_is_told_without_qemus_warnings(stand_in, fp32_onnx):
    there = ElsewhereRuntime(fp32_onnx, emulator().started("Conroe"), name="Conroe, emulated,")
    there._all[0]._process.kill()
    with pytest.raises(MeasurementProblem, match=r"^Conroe, emulated, ended: killed by SIGKILL; run it again$"):
        there(np.array([[101, 102]]), np.array([[1, 1]]))


PRECISIONS = {
    "int8": "", "int8@openvino": "an emulated CPU runs ONNX Runtime", "int8+binary": "int8 is judged on the CPUs",
}  # fmt: skip


def test_what_runs_elsewhere_is_left_out_and_named(small):
    session = Session(load_config(small), cpus=("Haswell",))
    why = {name: left_out(session, Target(parse_precision(name), "minilm", "own")).get("cpu", "") for name in PRECISIONS}
    assert why == PRECISIONS
    assert "cpu" not in [f.name for f in Session(load_config(small)).families(Target(parse_precision("int8"), "minilm", "own"))]
    with pytest.raises(UsageProblem, match="--cpu runs artifacts in ONNX Runtime"):
        session.targets([parse_precision("int8@openvino")])


def test_other_kinds_of_models_are_refused(judged):
    session = Session(load_config(judged("cross-encoder")), cpus=("Haswell",))
    with pytest.raises(UsageProblem, match=r"--cpu: model 'tiny' gives .*; vectors of dense models are compared"):
        session.targets([parse_precision("int8")])


def test_files_of_another_runtime_do_not_run_there(stand_in, small, minilm, monkeypatch):
    session, target = session_of(small)
    artifact = session.artifact(target.precision, "minilm")
    monkeypatch.setattr(session, "artifact", lambda *_: replace(artifact, file=None))
    monkeypatch.setattr(session, "token_ids", lambda *_: [])
    with pytest.raises(ArtifactProblem, match="an emulated CPU runs ONNX files"):
        cpus._computed(session, target, "Conroe")


def test_the_gate_judges_cpus_and_every_report_says_that_they_were_emulated(stand_in, small, tmp_path):
    report = tmp_path / "r.json"
    off = ("--qguard-latency=off", "--qguard-robustness=off", f"--qguard-report={report}")
    code, out = run_pytest(
        small, "--pyargs", "qguard.gate", "--precision", "int8", "--cpu", "conroe", "--qguard-cpu-texts=12",
        "-k", "golden or cpus", *off, **{PROGRAM: str(stand_in)},
    )  # fmt: skip
    assert "test_cpus[int8-minilm-own]" in out or "2 passed" in out, out
    assert "cpu Conroe, emulated by QEMU 99.1" in out
    assert code == 0, out


def test_reports_show_emulated_cpus_and_no_times():
    value = {"value": 0.9981, "native": 0.99945}
    found = {
        "name": "Haswell", "host": {"cpu": "Haswell", "class": "x86_64 avx2", "emulated": "QEMU 7.2"}, "native": {}, "texts": 48,
        "of": 900, "exact_products": False, "values": {"cpu.cosine_mean": value, "cpu.native_cosine_min": {"value": 0.9}},
    }  # fmt: skip
    target = {"model": "m", "precision": "int8", "runtime": "onnx", "vectors": "float32", "suite": "s"}
    check = {
        "name": "cpu.cosine_mean", "suite": "s", "slice": "Haswell", "value": 0.9981, "margin": -0.0009, "outcome": "fail",
        "bound": {"op": ">=", "number": 0.999, "text": ">= 0.999"}, "items": 48, "worst": ["<script>", "b"], "on": "value",
        "interval": None, "detectable": None, "unresolved": "", "accepted": None, "interval_note": "",
    }  # fmt: skip
    record = {"target": target, "gate": "test_cpus", "checks": [check], "done": True, "cpus": [found]}
    report = assemble([{**target, "tests": ["test_cpus"]}], [record])
    assert rows(report["runs"][0])[0]["name"] == "Haswell (QEMU 7.2)"
    page, marked, lines = as_html(report).decode(), as_markdown(report).decode(), "\n".join(summary_lines(report))
    for text in (page, marked.replace("\\", ""), lines.replace("\n         ", " ")):
        assert "Haswell" in text
        assert "QEMU 7.2" in text
        assert "0.99810 (this CPU 0.99945)" in text
        assert " ms" not in text
    assert "declare the option for exact products" in page
    assert "FAIL cpu.cosine_mean[Haswell]" in lines


def test_kept_batches_are_told_apart_by_all_that_an_encoder_reads(tmp_path):
    from qguard.encoders.kept import _digest
    from qguard.encoders.tokenizer import Tokens

    digests = {
        _digest([[1, 2], [3]], 0), _digest([[1], [2, 3]], 0), _digest([[3], [1, 2]], 0), _digest([[1, 2], [3]], 1),
        _digest([Tokens([1, 2], role="query"), [3]], 0), _digest([Tokens([1, 2], prompt=1), [3]], 0),
    }  # fmt: skip
    assert len(digests) == 6


# ---- QEMU itself ----


@real
def test_qemu_gives_the_features_of_the_cpus_that_are_known(monkeypatch):
    monkeypatch.delenv(PROGRAM, raising=False)
    found = emulator()
    haswell = found.told(found.model("haswell")).features
    assert "AVX2" in haswell
    assert not {"AVX512F", "AVX512VNNI"} & set(haswell)
    assert "AVX" not in found.told(found.model("nehalem")).features


@real
@pytest.mark.long
def test_int8_saturates_on_an_emulated_haswell_unless_the_option_is_declared(small, int8, tmp_path, monkeypatch):
    monkeypatch.delenv(PROGRAM, raising=False)
    bare = tmp_path / int8.file.name
    shutil.copyfile(int8.file, bare)
    target = Target(parse_precision("int8"), "minilm", "own")
    values = {}
    for name, path in (("declared", None), ("bare", bare)):
        session = Session(load_config(small), path, cpus=("Haswell",), cpu_texts=12)
        sampled, there = cpus.sample(session, target), cpus.computed(session, target, "Haswell")
        assert there.exact == (name == "declared")
        values[name] = {m.name: m.value for m in sampled.of_native(there.vectors)}
    assert values["declared"]["cpu.native_cosine_min"] > 0.99999
    assert values["bare"]["cpu.native_cosine_min"] < 0.9995


@pytest.mark.skipif(not os.environ.get(ROOT), reason=f"{ROOT} is not set (benchmarks/aarch64_root.sh makes the folder)")
@pytest.mark.long
def test_the_aarch64_wheel_computes_nearly_the_same(small):
    target = Target(parse_precision("int8"), "minilm", "own")
    session = Session(load_config(small), cpus=cpus.resolved(["graviton2"]), cpu_texts=12)
    sampled, there = cpus.sample(session, target), cpus.computed(session, target, "neoverse-n1")
    assert there.host()["class"] == "aarch64 asimd asimddp"
    assert not there.exact
    assert 0.99 < {m.name: m.value for m in sampled.of_native(there.vectors)}["cpu.native_cosine_min"] <= 1
