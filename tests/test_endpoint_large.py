"""A large suite through a server: nothing is lost and nothing is sent twice, whichever side is killed, and no two models mix."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.config import load_config
from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.goldens import corpus as recorded
from qguard.goldens import vectors
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.suites import corpus
from tests.conftest import ROOT
from tests.http_server import openai, serving
from tests.kinds import TEXTS

BLOCK, DOCUMENTS = 32, 400
LOW = {"LARGE": 150, "SAMPLE": 20, "JUDGED": 30}


def low(patch):
    for name, value in LOW.items():
        patch.setattr(corpus, name, value)
    patch.setattr(recorded, "BLOCK", BLOCK)


@pytest.fixture(autouse=True)
def _low(monkeypatch, tmp_path):
    low(monkeypatch)
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny):
    """400 documents of the tiny model's words, with their golden."""
    folder, pick = tmp_path_factory.mktemp("large"), random.Random(0)
    words = sorted({w.strip("!.,;()").lower() for t in TEXTS for w in t.split()})
    texts = [f"{' '.join(pick.sample(words, pick.randint(3, 12)))} {i}" for i in range(DOCUMENTS)]
    (folder / "large").mkdir()
    rows = [json.dumps({"_id": f"d{i}", "text": t}) for i, t in enumerate(texts)]
    (folder / "large" / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    queries = [json.dumps({"_id": f"q{i}", "text": " ".join(texts[i].split()[:3])}) for i in range(12)]
    (folder / "large" / "queries.jsonl").write_text("\n".join(queries) + "\n")
    judged = [f"q{i}\td{i}\t1" for i in range(12)]
    (folder / "large" / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["large"]\n[tool.qguard.models]\ntiny = {json.dumps(str(tiny("dense") / "model"))}\n'
        '[tool.qguard.suite.large]\npath = "large"\n[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nmode = "off"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        low(patch)
        session = Session(load_config(folder))
        golden.record(session.model("tiny"), session.suite("large"), session.config.golden_root, "tests")
    return folder, texts


class Counted:
    """A server of the tiny model that counts which documents it was asked for, and does something at one of its requests."""

    def __init__(self, served, texts):
        self.encode, self.known, self.seen = served("dense").embed, {f"text: {t}" for t in texts}, Counter()
        self.requests, self.at, self.do = 0, -1, lambda: None
        self.lock = threading.Lock()

    def __call__(self, request):
        with self.lock:
            self.requests += 1
            if self.requests == self.at:
                self.do()
            self.seen.update(t for t in request.value["input"] if t in self.known)
        return openai(lambda texts: self.encode(texts).outputs)(request)


@pytest.fixture
def counted(served, project):
    return Counted(served, project[1])


def session(folder, url):
    """Judges the server at a URL, asked for eight texts at a time by one request after the other."""
    config = load_config(folder).served(url)
    table = config.endpoint["served"].model_copy(update={"batch": 8, "concurrency": 1, "retries": 0})
    return Session(config.model_copy(update={"endpoint": {"served": table}}))


def documents(folder, url):
    """The vectors of all documents, read from the cache."""
    found = session(folder, url)
    return found.corpus_vectors(target(found))


def target(found):
    return Target(parse_precision("served", found.config.own_precisions), "tiny", "large")


def whole(file):
    return np.fromfile(file.path, np.float32).reshape(DOCUMENTS, -1)


def kept():
    return [len(json.loads(p.read_text())["blocks"]) for p in sorted((vectors.cache_folder()).glob("corpus-*/*/state.json"))]


def test_a_large_suite_is_judged_and_its_vectors_are_found_again(project, counted, served):
    folder, texts = project
    with serving(counted) as server:
        found = session(folder, server.url)
        names = {c.name: c for f in ("embedding", "ranking", "task") for c in found.checks(target(found), f)}
        assert {"ranking.overlap@10", "task.ndcg@10_retention"} <= set(names)
        assert names["embedding.cosine_mean"].outcome == "pass"
        before = counted.requests
        file = documents(folder, server.url)
        assert counted.requests - before < 60  # fingerprints, and no document
    assert np.allclose(whole(file), served("dense").embed([f"text: {t}" for t in texts]).outputs, atol=1e-6)
    assert set(counted.seen.values()) <= {1, 2}  # some are among the texts that the suite holds, too
    assert len(counted.seen) == DOCUMENTS


RUN = """
import sys
from pathlib import Path
import pytest
from tests import test_endpoint_large as t
with pytest.MonkeyPatch.context() as patch:
    t.low(patch)
    t.documents(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_client_that_is_killed_continues_where_it_was(project, counted, served):
    folder, texts = project
    with serving(counted) as server:
        process = subprocess.Popen([sys.executable, "-c", RUN, str(folder), server.url], cwd=ROOT)
        counted.at, counted.do = 40, process.kill  # of 50 requests for documents and 36 for the fingerprint
        assert process.wait(120) == -9
        (done,) = kept()
        assert 0 < done < DOCUMENTS // BLOCK
        file = documents(folder, server.url)
    assert np.allclose(whole(file), served("dense").embed([f"text: {t}" for t in texts]).outputs, atol=1e-6)
    twice = [t for t, n in counted.seen.items() if n > 1]
    assert len(counted.seen) == DOCUMENTS
    assert len(twice) <= BLOCK  # at most the block that it was killed in
    assert len(json.loads(next(file.path.parent.glob("state.json")).read_text())["blocks"]) == -(-DOCUMENTS // BLOCK)


def test_a_server_that_is_killed_leaves_what_it_answered(project, counted, served):
    folder, texts = project

    def dead(request):  # the process is gone: connections are closed, and stay so
        return None if counted.at >= 0 and counted.requests >= counted.at else counted(request)

    counted.at = 50
    with serving(dead) as server:
        with pytest.raises(EndpointProblem, match=r"no answer: .*; is the server running\?"):
            documents(folder, server.url)
        port = int(server.url.rpartition(":")[2])
    (done,) = kept()
    assert 0 < done < DOCUMENTS // BLOCK
    counted.at = -1
    with serving(counted, port) as again:
        assert again.url == server.url
        file = documents(folder, again.url)
    assert np.allclose(whole(file), served("dense").embed([f"text: {t}" for t in texts]).outputs, atol=1e-6)
    assert len([t for t, n in counted.seen.items() if n > 1]) <= BLOCK


def test_another_model_behind_the_url_is_not_mixed_in(project, counted, served, capsys):
    folder, texts = project
    good, other = counted.encode, served_otherwise(served)
    with serving(counted) as server:
        counted.at, counted.do = 50, lambda: setattr(counted, "encode", other)  # deployed amid the documents
        with pytest.raises(MeasurementProblem, match="another model was put behind it after 96 of 400 documents of large"):
            documents(folder, server.url)
        assert kept() == [3]
        file = documents(folder, server.url)  # of the other model from the first document on
        assert np.allclose(whole(file), other([f"text: {t}" for t in texts]).outputs, atol=1e-6)
        assert "endpoint 'served' answers otherwise than when documents were encoded before" in capsys.readouterr().err
        assert sorted(kept()) == [3, 13]
        counted.encode = good  # rolled back: what is kept of it is used
        counted.seen.clear()
        file = documents(folder, server.url)
        assert np.allclose(whole(file), good([f"text: {t}" for t in texts]).outputs, atol=1e-6)
        assert len(counted.seen) == DOCUMENTS - 3 * BLOCK


def served_otherwise(served):
    """The tiny model with its values in another order: the widths agree, and nothing else."""
    from dataclasses import replace

    def encode(texts):
        found = served("dense").embed(texts)
        return replace(found, outputs=found.outputs[:, ::-1])

    return encode


def test_another_model_while_a_suite_is_encoded_is_an_error(project, counted, served):
    folder, _ = project
    with serving(counted) as server:
        found = session(folder, server.url)
        counted.at, counted.do = 20, lambda: setattr(counted, "encode", served_otherwise(served))  # 16 for the fingerprint
        with pytest.raises(MeasurementProblem, match="answers otherwise than before its texts were encoded"):
            found.embeddings(target(found))


def test_a_damaged_record_of_whose_vectors_are_kept_proves_nothing(project, counted):
    folder, _ = project
    with serving(counted) as server:
        first = documents(folder, server.url)
        (first.path.parent / vectors.WITNESS).write_text('{"sketch": []}')
        counted.seen.clear()
        second = documents(folder, server.url)
        assert len(counted.seen) == DOCUMENTS
    assert Path(first.path).parent != Path(second.path).parent
    assert np.array_equal(whole(first), whole(second))
