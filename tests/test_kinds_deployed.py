"""Each kind of model from its gate to its deployment: reports and verdicts name it, and ``qguard verify`` holds them to it."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qguard.attest.policy import gates_in_force, required
from qguard.cli import main
from qguard.config import load_config
from qguard.config.tables import GateConfig
from qguard.errors import GoldenProblem, ModelProblem, UsageProblem
from qguard.faults import FAULTS
from qguard.faults.judging import CAUGHT, NOT_APPLICABLE, Judge, judge_accuracy, judge_fault
from qguard.faults.site import Candidate, FaultSite
from qguard.goldens import record
from qguard.judging.session import Session, Target
from qguard.kinds import KINDS
from qguard.precisions import parse_precision
from tests import families
from tests.kinds import TEXTS, tiny_cross_encoder, tiny_multi_vector, tiny_sparse
from tests.processes import gate

INT8 = parse_precision("int8")
OF = {"one": "cross-encoder", "three": "cross-encoder", "sparse": "sparse", "multi": "multi-vector", "plain": "dense"}
# nothing is trained: the values mean nothing, and files of a few kilobytes do not shrink
GATES = {
    "artifact.size_ratio": "<= 2", "score.p99_error": "<= 1", "score.bias": "<= 0.5", "score.spearman": ">= 0.9",
    "score.label_flips": "<= 0.3", "order.tau": ">= 0.7", "order.tau_min": ">= 0", "order.overlap@5": ">= 0.7",
    "order.top1": ">= 0.5", "order.inversions": "<= 0.2", "ranking.overlap@10": ">= 0.5", "ranking.overlap@10[*]": ">= 0",
    "ranking.top1": ">= 0.5", "ranking.inversions": "<= 0.1", "task.ndcg@10_retention": ">= 0.7", "weights.kept": ">= 0.7",
    "weights.added": "<= 0.3", "weights.p99_error": "<= 0.5", "similarity.p99_error": "<= 0.5", "similarity.spearman": ">= 0.9",
}  # fmt: skip


def suite(folder: Path) -> None:
    """Documents and queries of the tiny models' words, with some candidates for each query, and some pairs."""
    pick, words = random.Random(0), sorted({w.strip("!.,;()").lower() for t in TEXTS for w in t.split()})
    texts = [" ".join(pick.sample(words, pick.randint(3, 9))) for _ in range(24)]
    folder.mkdir()

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("corpus", [{"_id": f"d{i}", "text": t} for i, t in enumerate(texts)])
    write("queries", [{"_id": f"q{i}", "text": " ".join(pick.sample(words, 4))} for i in range(8)])
    chosen = [[{"document": f"d{d}", "score": int(k < 2)} for k, d in enumerate(pick.sample(range(24), 8))] for _ in range(8)]
    write("candidates", [{"query": f"q{i}", "candidates": some} for i, some in enumerate(chosen)])
    write("pairs", [{"text_a": texts[i], "text_b": texts[-1 - i]} for i in range(8)])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each kind, with the goldens of one suite."""
    folder = tmp_path_factory.mktemp("kinds")
    suite(folder / "own")
    tiny_cross_encoder(folder / "one")
    tiny_cross_encoder(folder / "three", 3)
    tiny_sparse(folder / "sparse")
    tiny_multi_vector(folder / "multi")
    families.write("bert", folder / "plain", normalize=False)
    models = "".join(f'{name} = "{name}"\n' for name in OF)
    gates = "".join(f"{json.dumps(key)} = {json.dumps(bound)}\n" for key, bound in GATES.items())
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\n{models}[tool.qguard.suite.own]\npath = "own"\n'
        f'[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nexamples = 10\n[tool.qguard.gates.int8]\n{gates}'
    )
    session = Session(load_config(folder))
    for name in OF:
        record(session.model(name), session.suite_of("own", name), session.config.golden_root, "first")
    return folder


@pytest.fixture(scope="module")
def session(project: Path) -> Session:
    return Session(load_config(project))


@dataclass
class Deployed:
    """What a run of the gate over one model left behind."""

    name: str
    project: Path
    folder: Path

    def read(self, file: str) -> Any:
        return json.loads((self.folder / file).read_text())

    def verify(self, statement: dict[str, Any] | None = None) -> int:
        file = self.folder / "verdict.json"
        if statement is not None:
            file = self.folder / "edited.json"
            file.write_text(json.dumps(statement))
        where = ["--artifact", str(self.folder / "model"), "--config", str(self.project), "--model", self.name]
        return main(["verify", str(file), *where, "--require", "int8 pass", "--unsigned"])


@pytest.fixture(scope="module", params=["one", "multi"])
def deployed(
    request: pytest.FixtureRequest, project: Path, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> Deployed:
    """One model's artifact, judged by pytest as a user runs it."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    shutil.copytree(session.artifact(INT8, name).folder, folder / "model")
    written = [f"--qguard-report={folder / f'r.{suffix}'}" for suffix in ("json", "html", "md")]
    attest = [f"--qguard-attest={folder / 'verdict.json'}", f"--junitxml={folder / 'j.xml'}"]
    on = ["--qguard-robustness=gate", f"--qguard-model={name}", f"--artifact={folder / 'model'}"]
    code, text = gate(project, *on, *attest, *written, precision="int8")
    assert code == 0, text
    (folder / "out.txt").write_text(text)
    return Deployed(name, project, folder)


def test_the_kind_is_named_wherever_a_run_is(deployed: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    kind, said = OF[deployed.name], f"kind {OF[deployed.name]} ({KINDS[OF[deployed.name]].gives})"
    (run,) = deployed.read("r.json")["runs"]
    assert run["kind"] == kind
    assert said in " ".join((deployed.folder / "out.txt").read_text().split())
    assert said in (deployed.folder / "r.md").read_text().replace("\\", "")
    assert f"<dt>kind</dt><dd>{said.removeprefix('kind ')}</dd>" in (deployed.folder / "r.html").read_text()
    assert f'/kind" value="{kind}"' in (deployed.folder / "j.xml").read_text()
    assert part(deployed.read("verdict.json"), f"model/{deployed.name}")["kind"] == kind
    assert deployed.verify() == 0  # also of a model without Normalize, of whose generated texts no length is measured
    assert f"files of the {kind} model {deployed.name} passed int8 on own" in capsys.readouterr().out


def part(statement: dict[str, Any], name: str) -> dict[str, Any]:
    """The annotations of one resource of a statement."""
    found = next(r for r in statement["predicate"]["configuration"] if r["name"] == name)
    return found["annotations"]["qguard"]


def test_a_verdict_of_another_kind_is_refused(deployed: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    kind = OF[deployed.name]
    for other in {*KINDS} - {kind}:
        statement = deployed.read("verdict.json")
        part(statement, f"model/{deployed.name}")["kind"] = other
        assert deployed.verify(statement) == 1
        assert f"kind: expected a {kind} model, as its golden says, found a {other} one" in capsys.readouterr().out


def test_a_verdict_without_its_values_is_refused(deployed: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    """Each family's values, one family at a time; and those of the items of the suite, with another number of them."""
    names = {c["name"] for c in part(deployed.read("verdict.json"), "suite/own")["checks"] if c["bound"]}
    for family in {name.partition(".")[0] for name in names}:
        statement = deployed.read("verdict.json")
        of_suite = part(statement, "suite/own")
        of_suite["checks"] = [c for c in of_suite["checks"] if not c["name"].startswith(f"{family}.")]
        assert deployed.verify(statement) == 1, family
        assert re.search(rf"suite own: expected a value of {family}\.\S+.*, found none", capsys.readouterr().out), family
    statement = deployed.read("verdict.json")
    sampled = next(c for c in part(statement, "suite/own")["checks"] if c["name"] in SAMPLED[OF[deployed.name]])
    sampled["items"] += 1
    assert deployed.verify(statement) == 1
    assert f"own/{sampled['name']}: expected {sampled['items'] - 1} items, as the suite has" in capsys.readouterr().out


SAMPLED = {
    "cross-encoder": ("score.p99_error",), "sparse": ("weights.kept",), "multi-vector": ("tokens.cosine_mean",),
    "dense": ("embedding.cosine_mean",),
}  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "multi"])
@pytest.mark.parametrize("precision", ["int8+int8", "fp32@onnx+binary"])
def test_the_values_of_stored_vectors_are_asked_for_though_their_ranges_are_of_another_suite(
    session: Session, name: str, precision: str
) -> None:
    """The suite has too few texts to take ranges from; a verdict is of a run that took them from elsewhere."""
    asked = parse_precision(precision)
    found = required(session, Target(asked, name, "own"), gates_in_force(session, asked, name))
    assert found["ranking.rescored_overlap@10"] == {"plain": 32, "multi": 8}[name]  # of a dense model every text is searched with


def test_a_verdict_is_verified_without_the_model_that_chose_the_candidates(project: Path, tmp_path: Path) -> None:
    """Its golden is enough. Where a golden is recorded or judged, that model is proved to be the golden's."""
    folder = shutil.copytree(project, tmp_path / "project")
    (folder / "own" / "candidates.jsonl").unlink()
    (folder / "own" / "pairs.jsonl").unlink()
    with (folder / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.suite.found]\npath = "own"\ncandidates = "plain"\ntop = 4\n')
    config = load_config(folder).model_copy(update={"suites": ("found",)})
    first = Session(config)
    record(first.model("plain"), first.recorded_suite("found", "plain"), config.golden_root, "first")
    whole = Session(config)
    record(whole.model("one"), whole.recorded_suite("found", "one"), config.golden_root, "first")
    alone = Session(config.select(["one"], []))
    assert [len(g.members) for g in alone.golden("one", "found").judged(alone.suite_of("found", "one")).groups] == [4] * 8
    shutil.rmtree(folder / "plain")
    light = Session(config.select(["one"], []))
    assert light.suite_of("found", "one").sha256 == alone.suite_of("found", "one").sha256
    with pytest.raises(ModelProblem, match="plain"):
        light.golden("one", "found")
    (folder / "own" / "queries.jsonl").write_text('{"_id": "q0", "text": "rye"}\n')
    with pytest.raises(GoldenProblem, match=r"golden plain/found, which chooses the candidates .* is stale"):
        Session(config.select(["one"], [])).suite_of("found", "one")


def test_a_gate_of_a_model_that_a_run_leaves_out_is_none_too_many(session: Session) -> None:
    """A project of several kinds has gates of each; one of no model is refused, whichever models are judged."""
    chosen = Session(session.config.select(["one"], []))
    assert [t.model for t in chosen.targets([INT8])] == ["one"]
    for key, words in (
        ("robustness.norm_error", "for models whose vectors have unit length, and none of the configured ones normalizes them"),
        ("score.threshold_flips", "no model has a threshold"),
    ):
        gates = {**session.config.gates, "int8": {**session.config.gates["int8"], key: GateConfig(bound="<= 1")}}
        config = session.config.model_copy(update={"gates": gates})
        for models in ([], ["one"], ["plain"]):
            with pytest.raises(UsageProblem, match=words):
                Session(config.select(models, [])).targets([INT8])
    dense = Session(session.config.select(["plain"], []).model_copy(update={"gates": {"int8": {}}}))
    assert not [g for g in dense.gates(INT8, "plain") if g.metric == "robustness.norm_error"]


@pytest.mark.parametrize("name", OF)
def test_the_sound_artifact_holds(session: Session, name: str) -> None:
    assert judge_accuracy(Judge.on(session, Candidate()), Target(INT8, name, "own")).failures == ()


@pytest.mark.parametrize(
    ("name", "fault", "severity", "words"),
    [
        ("one", "activation-lost", "full", "activation_fn in config_sentence_transformers.json (or config.json) is Identity"),
        ("three", "activation-lost", "full", "activation_fn in config_sentence_transformers.json (or config.json) is Sigmoid"),
        ("three", "labels-reordered", "full", "labels in another order (label 2, label 1, label 0)"),
        ("sparse", "splade-pooled-otherwise", "the first token", "of the first token alone"),
        ("multi", "filling-changed", "not at all", "query_expansion in sentence_bert_config.json is missing"),
        *((name, "granularity-lost", "every layer", "") for name in OF),
        *((name, "layers-removed", "the last half", "") for name in OF),
        ("sparse", "overflow", "every text", ""),
    ],
)
def test_a_fault_of_its_kind_is_caught_for_the_right_reason(
    session: Session, name: str, fault: str, severity: str, words: str, tmp_path: Path
) -> None:
    result = judge_fault(session, INT8, name, ["own"], FAULTS[fault], severity)
    assert result.status == CAUGHT, result
    assert any(map(FAULTS[fault].told_by, result.failures)), result.failures
    shown = [f.words for f in result.failures]
    if result.failures[0].check == "artifact.head":
        candidate = FAULTS[fault].inject(FaultSite(session, INT8, name, ("own",), tmp_path), severity)
        found = Judge.on(session, candidate).checks(Target(INT8, name, "own"), "artifact")
        shown = [line for c in found if c.outcome == "fail" for line in c.worst]
    assert any(words in text for text in shown), shown


@pytest.mark.parametrize(
    ("name", "fault", "why"),
    [
        ("one", "labels-reordered", "the model has one label"),
        ("one", "filling-changed", "the model gives scores for a pair of texts, not a vector to each token"),
        ("three", "pooling-wrong", "the model gives scores for a pair of texts, not one vector to a text"),
        ("sparse", "activation-lost", "the model gives a weight to each word of the vocabulary, not scores for a pair of texts"),
        ("sparse", "pooled-otherwise-in-file", "a weight to each word of the vocabulary, not one vector to a text"),
        ("multi", "splade-pooled-otherwise", "a vector to each token, not a weight to each word of the vocabulary"),
        ("multi", "normalize-missing-in-file", "the model gives a vector to each token, not one vector to a text"),
        ("multi", "golden-from-a-broken-pipeline", "the model gives a vector to each token, not one vector to a text"),
        ("multi", "vectors-scaled", "the pipeline gives vectors of unit length, whatever the file does"),
        ("multi", "vector-codes-wrap", "suite 'own' has 24 texts to take ranges from"),
        ("one", "vector-codes-wrap", "scores for a pair of texts, which is not stored as quantized vectors are"),
        ("plain", "token-types-zeroed", "the model gives one vector to a text, not scores for a pair of texts"),
    ],
)
def test_a_fault_that_a_model_cannot_have_says_why(session: Session, name: str, fault: str, why: str) -> None:
    result = judge_fault(session, INT8, name, ["own"], FAULTS[fault], FAULTS[fault].full)
    assert result.status == NOT_APPLICABLE, result
    assert why in result.reason


def test_a_file_without_its_classifier_is_refused_in_words(session: Session, tmp_path: Path) -> None:
    """As an export for another task writes it: the last hidden state."""
    from qguard.faults.surgery import ArtifactGraph

    site = FaultSite(session, INT8, "one", ("own",), tmp_path)
    graph: ArtifactGraph = site.graph
    from onnx import helper

    from qguard.faults.graph import hidden_state

    name, out = hidden_state(graph, 1), graph.output()
    graph.before_output(out)
    graph.append([helper.make_node("Identity", [name], [out])])
    graph.drop_unread()
    del graph.model.graph.output[:]
    graph.model.graph.output.append(helper.make_tensor_value_info(out, 1, ["batch", "length", 32]))
    (failure, *_) = judge_accuracy(Judge.on(session, site.operated()), Target(INT8, "one", "own")).failures
    assert failure.words == "the file gives a vector to each token, and a cross-encoder scores for a pair"
