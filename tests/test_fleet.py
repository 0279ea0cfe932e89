"""Work in tasks: the same results as without them, on machines that have the files and on those that do not."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qguard import cli
from qguard.config import load_config
from qguard.errors import ArtifactProblem, GoldenProblem, LibraryProblem, MeasurementProblem, UsageProblem
from qguard.faults import chosen, findings, runner
from qguard.fleet import Here, Item, Kept, NeedsData, Part, Place, Shared, connect
from qguard.fleet.nodes import Node, differences, digest, facts, refusal
from qguard.fleet.work import perform, result_of
from qguard.goldens import corpus as recorded
from qguard.goldens.vectors import encode_corpus
from qguard.hunting.hunt import encoder_of, hunt
from qguard.judging import compare
from qguard.judging.nodes import afar, candidate_elsewhere
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.report import assemble
from qguard.report.host import host, label
from qguard.vectors import shards
from qguard.vectors.search import VectorFile, top_k
from qguard.vectors.similarity import DOT, SIMILARITIES
from tests.test_large import BLOCK, folder_of, low, project, target  # noqa: F401

CALLS: list[int] = []


class Lanes(Here):
    """This process as if it were three."""

    lanes = 3


class Stranger(Here):
    """This process as a machine that has none of the files at the same path: all are sent."""

    lanes = 2

    def map(self, task, shared, items, kept=None):
        moved = replace_folders(shared)
        for item in items:
            told = perform(task, moved.to_json(), digest(), item.given, item.data)
            if told[0]["told"] == "parts":
                contents = {p.name: p.contents() for p in shared.parts if p.name in told[0]["names"]}
                told = perform(task, moved.to_json(), digest(), item.given, item.data, contents)
            if told[0]["told"] == "data":
                told = perform(task, moved.to_json(), digest(), item.given, item.later())
            yield result_of(told)


def replace_folders(shared: Shared) -> Shared:
    given = {**shared.given, "path": "nowhere"} if "path" in shared.given else shared.given
    return Shared(given, tuple(replace(p, folder=Path("nowhere") / p.name) for p in shared.parts), shared.data)


def double(place: Place, given, data):
    CALLS.append(given["n"])
    if given["n"] == 13:
        raise GoldenProblem("thirteen is not doubled")
    if given["n"] == 14:
        return {}[given["n"]]
    return {"n": 2 * given["n"], "base": place.given["base"]}, data[::-1]


def numbers(*some: int) -> list[Item]:
    return [Item({"n": n}, bytes([n])) for n in some]


DOUBLE = "tests.test_fleet:double"


@pytest.fixture
def large(project):  # noqa: F811
    return project[1]


@pytest.fixture
def _low(monkeypatch):
    low(monkeypatch)


@pytest.fixture
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))


def test_results_come_in_the_order_of_the_items():
    assert list(Here().map(DOUBLE, Shared({"base": 1}), numbers(3, 1, 2))) == [
        ({"n": 6, "base": 1}, b"\3"), ({"n": 2, "base": 1}, b"\1"), ({"n": 4, "base": 1}, b"\2"),
    ]  # fmt: skip


def test_what_a_task_raises_comes_back_in_its_class_and_words():
    with pytest.raises(GoldenProblem, match="thirteen is not doubled"):
        list(Here().map(DOUBLE, Shared({"base": 1}), numbers(13)))
    with pytest.raises(LibraryProblem, match="the task double failed in tests: KeyError: 14"):
        list(Here().map(DOUBLE, Shared({"base": 1}), numbers(14)))


@pytest.mark.usefixtures("_cache")
def test_results_are_kept_until_the_run_is_over():
    kept, shared = Kept("tests", 1), Shared({"base": 1})
    found = list(Here().map(DOUBLE, shared, numbers(1, 2, 3), kept))
    CALLS.clear()
    assert list(Here().map(DOUBLE, shared, numbers(1, 2, 3), Kept("tests", 1))) == found
    assert CALLS == []
    damaged = sorted(kept.folder.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert list(Here().map(DOUBLE, shared, numbers(1, 2, 3), kept)) == found
    assert len(CALLS) == 1  # what was damaged was computed again
    CALLS.clear()
    assert next(Here().map(DOUBLE, Shared({"base": 2}), numbers(1), kept))[0]["base"] == 2
    kept.forget()
    list(Here().map(DOUBLE, shared, numbers(1, 2), kept))
    assert CALLS == [1, 1, 2]


@pytest.mark.usefixtures("_cache")
def test_files_are_used_where_they_are_and_sent_where_not(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.json").write_text("1")
    (tmp_path / "a" / ".hidden").write_text("no")
    part = Part.of_path("files", tmp_path / "a")
    assert list(part.files) == ["b/x.json"]
    assert part.here() == tmp_path / "a"
    moved = replace(part, folder=tmp_path / "elsewhere")
    assert moved.key == part.key
    assert moved.here() is None
    kept = moved.keep(part.contents())
    assert (kept / "b" / "x.json").read_text() == "1"
    assert replace(moved, folder=tmp_path / "another").here() == kept
    with pytest.raises(ArtifactProblem, match=r"files: b/x\.json changed while the run used it"):
        moved.keep({"b/x.json": b"2"})
    (tmp_path / "a" / "b" / "x.json").write_text("2")
    with pytest.raises(ArtifactProblem, match="changed while the run used it; run again"):
        part.contents()


def test_a_part_never_leaves_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    data = b"x"
    part = Part("files", tmp_path / "no", {"../../evil": (hashlib.sha256(data).hexdigest(), 1)})
    with pytest.raises(ArtifactProblem, match="leaves the folder"):
        part.keep({"../../evil": data})
    assert not (tmp_path / "evil").exists()


def test_a_machine_that_differs_does_nothing_and_says_what_it_is():
    told, _ = perform(DOUBLE, Shared({"base": 1}).to_json(), "another digest", {"n": 1}, b"")
    assert told == {"told": "unlike", "facts": facts()}


def test_nodes_that_differ_are_named_with_what_differs():
    here = facts()
    other = {**here, "class": "x86_64 avx2", "versions": {**here["versions"], "onnxruntime": "1.31.0"}}
    assert differences(here, here) == []
    assert len(differences(here, other)) == 2
    text = str(refusal(here, [Node("a", "10.0.0.1", 4, here), Node("b", "10.0.0.2", 8, other)]))
    assert text.startswith("1 of 2 nodes of the Ray cluster would compute other results than this machine:\n")
    assert "node 10.0.0.2 (8 CPUs): class is x86_64 avx2, here " in text
    assert f"onnxruntime is 1.31.0, here {here['versions']['onnxruntime']}" in text
    assert "10.0.0.1" not in text
    assert text.endswith("--ray-alike")


def test_the_facts_tell_working_copies_apart():
    assert ", code " in facts()["qguard"]
    assert json.dumps(facts())
    assert socket.gethostname() not in json.dumps(facts())


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
@pytest.mark.parametrize("fleet", [Lanes(), Stranger()], ids=["alike", "sent"])
@pytest.mark.usefixtures("_cache")
def test_a_search_in_shards_is_the_search_of_the_whole(monkeypatch, tmp_path, similarity, fleet):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32)
    vectors[1700] = vectors[40]  # equal scores in two shards: the first document comes first
    vectors[2900] = vectors[40]
    path, blocks = tmp_path / "v", [vectors[i : i + 100].tobytes() for i in range(0, 3000, 100)]
    path.write_bytes(b"".join(blocks))
    file = VectorFile(path, 3000, 16, blocks=tuple((100, hashlib.sha256(b).hexdigest()) for b in blocks))
    queries = np.concatenate([vectors[[40]], rng.standard_normal((20, 16)).astype(np.float32)])
    monkeypatch.setattr(shards, "SMALLEST", 200)
    seen: list[int] = []
    found = shards.sharded(fleet, queries, file, 7, seen.append, SIMILARITIES[similarity])
    whole = top_k(queries, file, 7, similarity=SIMILARITIES[similarity])
    assert found[0].tobytes() == whole[0].tobytes()
    assert found[1].tobytes() == whole[1].tobytes()
    assert found[0][0][:3].tolist() == [40, 1700, 2900]
    assert len(seen) > 2
    assert sum(seen) == 3000


def test_a_shard_that_is_not_what_was_encoded_is_asked_for(tmp_path):
    data = np.ones((4, 2), np.float32).tobytes()
    (tmp_path / "v").write_bytes(data[:-1] + b"x")
    place = Place("k", {"k": 1, "dim": 2, "similarity": "dot", "rows": 4, "path": str(tmp_path / "v")}, {}, data[:8])
    given = {"start": 0, "blocks": [(4, hashlib.sha256(data).hexdigest())]}
    with pytest.raises(NeedsData):
        shards.search_shard(place, given, b"")
    assert shards.search_shard(place, given, data)[0] == {"k": 1}


@pytest.mark.parametrize("fleet", [Lanes(), Stranger()], ids=["alike", "sent"])
@pytest.mark.usefixtures("_low")
def test_a_large_suite_is_encoded_in_tasks_to_the_same_bytes(large, monkeypatch, tmp_path, fleet):
    whole = large.corpus_vectors(target())
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    session = replace(large, fleet=fleet)
    found = session.corpus_vectors(target())
    assert found.path != whole.path
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert (found.path.parent / "state.json").read_bytes() == (whole.path.parent / "state.json").read_bytes()
    monkeypatch.setattr(shards, "SMALLEST", 100)
    a, b = session.comparison(target()).neighbours, large.comparison(target()).neighbours
    assert a.candidate.tobytes() == b.candidate.tobytes()
    assert a.rescored.tobytes() == b.rescored.tobytes()


@pytest.mark.usefixtures("_low")
def test_a_run_goes_on_where_another_was_stopped(large, monkeypatch, tmp_path):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "whole"))  # where it is the first test that asks for them
    whole, first = large.corpus_vectors(target()), replace(large, fleet=Lanes())
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    encode, calls = candidate_elsewhere(first, target(), first.fleet), []

    def some(blocks):
        for number, found in enumerate(encode(blocks)):
            calls.append(number)
            if number == 3:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr("qguard.judging.nodes.candidate_elsewhere", lambda *_: some)
    with pytest.raises(KeyboardInterrupt):
        first.corpus_vectors(target())
    monkeypatch.undo()
    low(monkeypatch)
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    second = replace(large, fleet=Lanes())
    sizes = []
    encode = candidate_elsewhere(second, target(), second.fleet)
    monkeypatch.setattr(
        "qguard.judging.nodes.candidate_elsewhere", lambda *_: lambda blocks: encode(sizes.append(len(b)) or b for b in blocks)
    )
    found = second.corpus_vectors(target())
    assert found.path.read_bytes() == whole.path.read_bytes()
    assert sum(sizes) == whole.rows - 3 * BLOCK  # what was encoded is not encoded again


@pytest.mark.usefixtures("_low")
def test_another_tokenizer_is_told_as_on_one_machine(large, monkeypatch, tmp_path):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    golden = large.golden("tiny", "large")
    tokens = ("0" * 64, *golden.retrieved.tokens[1:])
    session = replace(large, fleet=Lanes())
    Session.model.share(large, session)
    Session.golden.put(session, replace(golden, retrieved=replace(golden.retrieved, tokens=tokens)), "tiny", "large")
    with pytest.raises(GoldenProblem, match="token ids of documents differ from the golden's among the 64 documents from"):
        session.corpus_vectors(target())


@pytest.mark.usefixtures("_low")
def test_fp32_of_a_golden_is_the_same_in_tasks(large, monkeypatch, tmp_path):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    model, suite = large.model("tiny"), large.suite("large")
    coder = recorded.fp32_coder(model)
    here = encode_corpus(suite.corpus, replace(coder, key={"here": 1}), BLOCK)
    there = encode_corpus(suite.corpus, replace(coder, elsewhere=afar(large, "tiny", Lanes()).encode), BLOCK)
    assert here[0].path.read_bytes() == there[0].path.read_bytes()
    assert here[1] == there[1]


def test_a_self_test_in_tasks_is_that_of_processes(judged, monkeypatch, tmp_path):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    faults, precision = chosen(["pooling-wrong", "golden-missing"]), parse_precision("fp32")

    def report(fleet):
        session = Session(load_config(judged("dense")), fleet=fleet)
        steps: list[int] = []
        found = runner.selftest(session, precision, faults, 2, 1, lambda: steps.append(1))
        assert len(steps) == runner.steps(session, faults, 2)
        value = findings.to_json(found)
        for row in (*value["results"], *value["repeats"]):
            row.pop("seconds", None), row.pop("process", None)
        return value

    assert report(Lanes()) == report(None)
    assert not list((tmp_path / "cache").glob("run-*"))


def test_a_comparison_in_tasks_has_the_same_rows(judged, monkeypatch):
    monkeypatch.setattr(compare, "speed", lambda *_: (1.0, False))
    session = Session(load_config(judged("dense")))
    precisions = [parse_precision("fp32"), parse_precision("int8"), parse_precision("int8+binary")]
    rows = compare.compare(session, precisions, lambda _: None)
    said: list[str] = []
    found = compare.compare(replace(session, fleet=Lanes()), precisions, said.append)
    assert compare.to_json(found) == compare.to_json(rows)
    assert "judged: int8-tiny-own" in said


def test_a_hunt_in_tasks_finds_the_same(judged, monkeypatch, tmp_path):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    session = Session(load_config(judged("dense")))
    texts, precision = session.suite("own").texts, parse_precision("int8")
    plain = hunt(encoder_of(session, precision, "tiny"), texts, 60, seed=3, generations=2, keep=5)
    encode = encoder_of(replace(session, fleet=Lanes()), precision, "tiny")
    found = hunt(encode, texts, 60, seed=3, generations=2, keep=5)
    assert (found.texts, found.pairs, found.tried) == (plain.texts, plain.pairs, plain.tried)
    assert encode._kept.count > 0
    encode.forget()
    assert encode._kept.count == 0


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("nonsense", UsageProblem, "--ray nonsense: expected auto, or HOST:PORT such as 10.0.0.1:6379"),
        ("ray://head:10001", UsageProblem, "expected auto or HOST:PORT, found an address of Ray Client"),
        ("127.0.0.1:1", MeasurementProblem, "--ray 127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_addresses(address, error, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    with pytest.raises(error, match=words):
        connect(address)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LibraryProblem, match=r"--ray needs ray, which is not installed; run: pip install"):
        connect("auto")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["compare", "--precision", "int8", "--ray-alike"],
            "--ray-alike is about the nodes of a cluster; give --ray ADDRESS too",
        ),
        (["tune", "--out", "x", "--ray", "auto"], "--ray: tune times every candidate, and a time needs a machine for itself"),
        (["selftest", "--ray", "here"], "--ray here: expected auto, or HOST:PORT"),
    ],
)
def test_usage(judged, monkeypatch, capsys, command, words):
    monkeypatch.chdir(judged("dense"))
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    assert cli.main(command) == 2
    assert words in capsys.readouterr().err


def test_the_host_of_a_report_names_its_fleet():
    fleet = {"engine": "ray 2.60.0", "nodes": 3, "cpus": 3, "left_out": 1, "alike": "0" * 16}
    asked = {
        "precision": "int8",
        "runtime": "onnx",
        "vectors": "float32",
        "model": "m",
        "suite": "s",
        "tests": [],
        "fleet": fleet,
    }
    (run,) = assemble([asked | {"fleet": fleet}], [])["runs"]
    assert run["host"] == host() | {"fleet": fleet}
    assert "fleet" not in run
    assert label(run["host"]) == f"{label(host())}, 3 nodes of ray 2.60.0"


def test_similarities_are_found_by_name():
    assert SIMILARITIES["dot"] is DOT
