"""The self-test: faults of every family are made for real, the real gate judges them, and holes and alarms are told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.box import MARKDOWN
from rich.console import Console

from qguard import cli
from qguard import goldens as golden
from qguard.config import load_config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.faults import ELSEWHERE, FAULTS, Fault, chosen, findings, runner
from qguard.faults.judging import (
    BROKEN,
    CAUGHT,
    MISSED,
    NOT_APPLICABLE,
    Failure,
    Judge,
    Result,
    first_sentence,
    judge_accuracy,
    judge_fault,
)
from qguard.faults.repeats import BUDGETS, Condition, run_repeat
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision
from tests import goldens

INT8 = parse_precision("int8")
STEP = 5  # of 120 texts
# 24 texts have few neighbors
# two dozen short texts hardly differ in score, so that their order is loose
GATES = """[tool.qguard.gates.int8]
"similarity.spearman" = ">= 0.98"
"ranking.overlap@10" = ">= 0.9"
"ranking.top1" = ">= 0.8"
"ranking.overlap@10[*]" = ">= 0"
"""


@pytest.fixture(scope="module")
def project(small, tmp_path_factory):
    """The small project cut to two dozen texts: judging takes a second."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("selftest") / "project")
    texts = (folder / "own.jsonl").read_text().splitlines(keepends=True)
    (folder / "own.jsonl").write_text("".join(texts[::STEP]))
    with (folder / "pyproject.toml").open("a") as f:
        f.write(GATES)
    harness = Session(load_config(folder))
    old = golden.read(folder / "golden" / "minilm" / "own")
    hashes = golden.identity(harness.model("minilm"), harness.suite("own"))
    goldens.rewrite(harness, vectors=np.ascontiguousarray(old.vectors[::STEP]), ids=old.token_ids[::STEP], hashes=hashes)
    return folder


@pytest.fixture(scope="module")
def sound(project):
    return Session(load_config(project))


@pytest.fixture(scope="module")
def judged(sound):
    """``judged(fault, severity)``: the real gate's result, the full fault by default."""

    def judge(name: str, severity: str = "") -> Result:
        return judge_fault(sound, INT8, "minilm", ("own",), FAULTS[name], severity or FAULTS[name].full)

    return judge


@pytest.fixture
def site(sound, tmp_path):
    return FaultSite(sound, INT8, "minilm", ("own",), tmp_path)


def test_names_are_stable_and_every_severity_has_one():
    assert all(name == fault.name == name.lower().replace(" ", "-") for name, fault in FAULTS.items())
    assert sum(len(f.severities) for f in FAULTS.values()) >= 90
    assert not set(ELSEWHERE) & set(FAULTS)


def test_an_unknown_fault_is_told_the_nearest():
    assert [f.name for f in chosen(["slower", "slower"])] == ["slower"]
    with pytest.raises(UsageProblem, match="unknown fault 'mask-droped'; did you mean mask-dropped"):
        chosen(["mask-droped"])


def test_the_sound_artifact_holds(sound):
    assert judge_accuracy(Judge.on(sound, Candidate()), Target(INT8, "minilm", "own")).failures == ()


@pytest.mark.parametrize(
    ("fault", "gate", "check"),
    [
        ("zero-point-wrong", "artifact", "artifact.weight_error"),
        ("quantized-in-name-only", "artifact", "artifact.quantized_ops"),
        ("mask-sentinel-in-range", "artifact", "artifact.activation_range"),
        ("mask-dropped", "embedding", ""),
        ("overflow", "artifact", ""),
        ("overflow-hidden", "artifact", "artifact.overflow"),
        ("pooling-wrong", "embedding", "embedding.cosine_mean"),
        ("normalize-missing", "embedding", "embedding.norm_error"),
        ("length-cut", "golden", ""),
        ("normalize-missing-in-file", "artifact", "artifact.unit_length"),
        ("pooled-otherwise-in-file", "artifact", "artifact.output_agreement"),
        ("tokenizer-config-wrong", "golden", ""),
        ("truncation-baked", "golden", ""),
        ("special-token-wrong", "golden", ""),
        ("vocabulary-swapped", "golden", ""),
        ("rows-mixed-up", "embedding", "embedding.cosine_mean"),
        ("artifact-truncated", "artifact", ""),
        ("artifact-flipped", "artifact", ""),
        ("golden-missing", "golden", ""),
        ("golden-edited", "golden", ""),
        ("golden-of-something-else", "golden", ""),
        ("golden-from-a-broken-pipeline", "embedding", "embedding.cosine_mean"),
    ],
)
def test_the_full_fault_is_caught_by_the_check_that_says_why(judged, fault, gate, check):
    result = judged(fault)
    assert result.status == CAUGHT, result.reason
    assert result.failures[0].gate == gate
    assert any(map(FAULTS[fault].told_by, result.failures)), result.failures
    if check:
        assert result.failures[0].check == check
        assert result.failures[0].margin < 0
    elif result.failures[0].value is None:
        assert result.failures[0].words


def test_the_mask_of_one_attention_layer_can_be_dropped(judged):
    result = judged("mask-dropped", "1 layer")
    assert result.status == CAUGHT, result.reason


@pytest.mark.parametrize(
    ("severity", "words"), [("accents", "strip_accents in tokenizer_config.json is false"), ("case", "do_lower_case in ")]
)
def test_a_setting_that_only_transformers_obeys_is_caught(judged, severity, words):
    result = judged("tokenizer-config-wrong", severity)
    assert result.status == CAUGHT, result.reason
    assert words in result.failures[0].words


@pytest.mark.parametrize("severity", FAULTS["truncation-baked"].severities)
def test_a_baked_length_is_caught_though_no_text_is_so_long(judged, severity):
    assert judged("truncation-baked", severity).status == CAUGHT


def test_what_a_model_cannot_have_says_why(judged):
    cannot = (
        ("dense-missing", "no Dense head"), ("dense-missing-in-file", "no Dense head"), ("prompt-missing", "no prompts"),
        ("slower", "latency is not gated"),
    )  # fmt: skip
    for name, why in cannot:
        result = judged(name)
        assert result.status == NOT_APPLICABLE
        assert why in result.reason


def test_a_small_fault_is_missed_and_keeps_its_values(judged):
    result = judged("weight-bits-flipped", "1 bit")
    assert result.status == MISSED
    assert result.values["embedding.cosine_mean"] > 0.999


def test_the_sound_files_are_never_touched(sound, site):
    before = site.artifact.sha256
    FAULTS["scale-wrong"].inject(site, "every layer")
    FAULTS["golden-too-coarse"].inject(site, "1 decimal")
    assert Session(sound.config).artifact(INT8, "minilm").sha256 == before
    assert Session(sound.config).golden("minilm", "own").vectors.shape == (24, 384)


def test_a_changed_graph_keeps_a_provenance_that_fits(site):
    """Else the seal would see every fault, and no gate would be tested."""
    candidate = FAULTS["scale-wrong"].inject(site, "1 layer")
    artifact = Judge.on(site.session, candidate).artifact(INT8, "minilm")
    assert artifact.calibration["source"] == "qguard"
    assert artifact.sha256 != site.artifact.sha256


def test_padding_before_the_text_is_undone_in_what_comes_out(site):
    """Without position embeddings it would be the same: a text that fills its batch has the vector that it always has."""
    judge = Judge.on(site.session, FAULTS["padded-left"].inject(site, "every batch"))
    sound = Judge.on(site.session, Candidate())
    ids = site.session.golden("minilm", "own").token_ids[:4]
    found, own = (j.encoder(INT8, "minilm").encode_batches(ids, [[0, 1, 2, 3]]) for j in (judge, sound))
    longest = int(np.argmax([len(row) for row in ids]))
    cosine = (found * own).sum(1)
    assert cosine[longest] > 0.9999
    assert 0.5 < np.delete(cosine, longest).min() < 0.999


def test_rare_words_are_words(site):
    """Texts may spell out special tokens, whose rows every text reads."""
    site.session.golden("minilm", "own").token_ids[0].insert(1, 101)
    try:
        counts = site.token_counts()
        assert not {0, 100, 101, 102} & set(counts)
        rare, common = site.two_words("rare", 30522), site.two_words("common", 30522)
        assert [counts[t] for t in rare] == [1, 1]
        assert min(counts[t] for t in common) > 5
        assert not set(site.two_words("unused", 30522)) & set(counts)
    finally:
        del site.session.golden("minilm", "own").token_ids[0][1]


def test_repeats_differ_in_batches_threads_and_order(sound):
    conditions = [Condition.of(n) for n in range(36)]
    assert {c.budget for c in conditions} == set(BUDGETS)
    assert len({(c.budget, c.threads, c.sorted) for c in conditions}) == 24
    repeat = run_repeat(sound, INT8, "minilm", ("own",), 13)
    assert repeat.failures == ()
    assert "2 thread(s)" in repeat.condition


def test_vectors_wrap_around_or_clip(small, tmp_path):
    """Both faults of stored vectors, on the fp32 embeddings themselves."""
    harness = Session(load_config(small))
    site = FaultSite(harness, INT8, "minilm", ("own",), tmp_path)
    vectors = harness.golden("minilm", "own").vectors
    target = Target(replace(INT8, vectors="int8"), "minilm", "own")
    clean = Comparison.of(harness.suite("own"), vectors, vectors).quantize("int8", harness.calibration(target).ranges)
    cosine = {}
    for name, severity in (("vector-ranges-of-few-texts", "32 texts"), ("vector-codes-wrap", "ranges of 32 texts")):
        units = FAULTS[name].inject(site, severity).stored(clean).units
        cosine[name] = float((units[0] * units[1]).sum(1).mean())
    sound = float((clean.units[0] * clean.units[1]).sum(1).mean())
    assert cosine["vector-codes-wrap"] < 0.95 < cosine["vector-ranges-of-few-texts"] < sound


def test_few_vectors_have_no_ranges_to_take(judged):
    assert "24 texts to take ranges from" in judged("vector-codes-wrap").reason


@pytest.fixture(scope="module")
def lax(project, tmp_path_factory):
    """A project whose gate on vectors says nothing."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("lax") / "project")
    gates = dict.fromkeys(
        ("embedding.cosine_mean", "embedding.cosine_p01", "embedding.cosine_min", "similarity.spearman", "ranking.overlap@10",
         "ranking.overlap@10[*]", "ranking.top1", "invariance.batch_cosine_min", "invariance.order", "invariance.padding",
         "invariance.equal_length"), ">= -1",
    ) | dict.fromkeys(("similarity.p99_error", "similarity.bias", "ranking.inversions"), "<= 3")  # fmt: skip
    file = folder / "pyproject.toml"
    lines = "".join(f'"{k}" = "{v}"\n' for k, v in gates.items())
    file.write_text(file.read_text().replace(GATES, "[tool.qguard.gates.int8]\n" + lines))
    return folder


def test_a_hole_is_named_with_the_gate_that_closes_it(lax, tmp_path, capsys):
    """The whole command, in its own processes."""
    options = ["--fault=pooling-wrong", "--fault=golden-edited", "--fault=dense-missing", "--repeats=2", "--jobs=2"]
    code = cli.main(["selftest", "--config", str(lax), "--precision", "int8", *options, "--json", str(tmp_path / "r.json")])
    out = capsys.readouterr().out
    assert code == 1
    assert "| golden-edited | 1 digit of a vector" in " ".join(out.split())
    assert "hole: pooling-wrong (first token, or the mean) of minilm is missed; the default gate would catch it: " in out
    assert '[tool.qguard.gates.int8] "embedding.cosine_mean" = ">= 0.999"' in out
    assert "2 clean repeats in 2 processes: 0 false alarms" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["schema"], report["exit_code"], report["false_alarms"]) == (2, 1, 0)
    assert [h["fault"] for h in report["holes"]] == ["pooling-wrong"]
    assert report["not_applicable"]["dense-missing"] == "the model has no Dense head"
    assert {r["status"] for r in report["results"]} == {"caught", "missed", "not applicable"}


def test_a_gate_that_fails_without_a_fault_tests_nothing(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")
    with (folder / "pyproject.toml").open("a") as f:
        f.write('"embedding.cosine_mean" = ">= 0.99999"\n')
    harness = Session(load_config(folder))
    with pytest.raises(
        MeasurementProblem, match=r"does not hold its gates on suite 'own' without any fault: embedding\.cosine_mean"
    ):
        runner.judge_sound(harness, runner.planned(harness, INT8))


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--fault", "nope"], "unknown fault"), (["--jobs", "0"], "--jobs"), (["--repeats", "-1"], "--repeats: expected 0 or more")],
)
def test_usage(project, capsys, options, words):
    assert cli.main(["selftest", "--config", str(project), *options]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def report(sound):
    """A report whose statuses a test sets."""
    fault = Fault("one", "what", "embedding", "", "", {"small": 1, "full": 2})
    plan = runner.Plan(sound.config, INT8, None, ("own",))
    failure = Failure("embedding", "embedding.cosine_min", 0.5, Bound(">=", 0.9), -0.4)
    seen = Result("one", "full", "minilm", CAUGHT, "own", (failure,))
    small = replace(seen, severity="small", status=MISSED, failures=(), values={"embedding.cosine_mean": 0.9994})
    return runner.Report(plan, (fault,), (small, seen), (), {("minilm", "own"): {"embedding.cosine_mean": 0.9995}})


def test_exit_codes(report):
    small, seen = report.results
    assert findings.exit_code(report) == 0
    missed = replace(report, results=(small, replace(seen, status=MISSED, failures=())))
    assert findings.exit_code(missed) == 1
    broken = replace(report, results=(small, replace(seen, status=BROKEN, reason="why")))
    assert findings.exit_code(broken) == 3
    counts = [findings.lines(r)[0] for r in (report, missed, broken)]
    assert [c.partition("in full, ")[2] for c in counts] == ["1 of 1 faults", "0 of 1 faults", "0 of 1 faults"]
    assert findings.exit_code(replace(report, results=(replace(seen, status=NOT_APPLICABLE),))) == 3
    alarm = run_alarm()
    assert findings.exit_code(replace(report, repeats=(alarm,))) == 1
    assert any(line.startswith("false alarm: batches of 64") for line in findings.lines(replace(report, repeats=(alarm,))))


def run_alarm():
    from qguard.faults.repeats import Repeat

    failure = Failure("embedding", "embedding.cosine_min", 0.1, Bound(">=", 0.9), -0.8)
    return Repeat(0, "minilm", str(Condition.of(0)), (failure,), 1)


def test_the_smallest_damage_is_that_from_which_on_all_is_caught(report):
    small, seen = report.results
    assert [(s.smallest, s.full, s.missed) for s in findings.summaries(report)] == [(seen, seen, "small")]
    upside = replace(report, results=(replace(seen, severity="small"), replace(small, severity="full")))
    assert [(s.smallest, s.missed) for s in findings.summaries(upside)] == [(None, "full")]


def test_a_gate_between_both_values_is_proposed_where_no_default_sees_it(report):
    small, _ = report.results
    assert '"embedding.cosine_mean" = ">= 0.9994" (sound 0.9995' in findings.closing(report, small)
    still = replace(small, values={"embedding.cosine_mean": 0.9995})
    assert "no value of this suite changes" in findings.closing(report, still)


def test_tables_print_as_markdown(report, capsys):
    for title, table in findings.tables(report, MARKDOWN):
        Console(width=200).print(title, table)
    out = " ".join(capsys.readouterr().out.split())
    assert "| one | full | embedding.cosine_min | 0.5 | >= 0.9 | -0.4" in out


def test_a_fault_that_cannot_be_made_is_not_a_pass(sound):
    wrong = Fault("one", "what", "embedding", "", "weights:flip_bits", {"full": "many"})
    result = judge_fault(sound, INT8, "minilm", ("own",), wrong, "full")
    assert result.status == BROKEN
    assert "TypeError" in result.reason


def test_a_torch_artifact_has_no_graph_to_change(sound, tmp_path):
    site = FaultSite(sound, parse_precision("fp32@torch"), "minilm", ("own",), tmp_path)
    with pytest.raises(NotApplicable, match="no ONNX file"):
        FAULTS["scale-wrong"].inject(site, "1 layer")


def test_first_sentences():
    assert first_sentence("token ids differ from the golden's in 3 texts: casing. More, and more.") == (
        "token ids differ from the golden's in 3 texts: casing"
    )
    assert len(first_sentence("x" * 500)) == 150
