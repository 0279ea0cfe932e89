"""Large retrieval suites: the same values as held in memory, kills and damage that cost a block, and memory that is bounded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.config import load_config
from qguard.errors import DataProblem, GoldenProblem, MeasurementProblem
from qguard.families import measure
from qguard.goldens import corpus as recorded
from qguard.goldens import vectors as corpus_vectors
from qguard.goldens.vectors import STATE, VECTORS, candidate_coder, encode_corpus
from qguard.judging.session import Session, Target
from qguard.metrics.ranking import METRICS, items
from qguard.precisions import parse_precision
from qguard.report.details import QUERIES, details
from qguard.suites import corpus, load_suite
from qguard.suites.source import Source
from tests.conftest import ROOT

BLOCK = 64
CORE = ROOT / "qguard" / "suites" / "core"
CONFIG = (
    '[tool.qguard]\nsuites = ["large"]\n[tool.qguard.models]\ntiny = "model"\n'
    '[tool.qguard.suite.large]\npath = "large"\n[tool.qguard.suite.held]\npath = "large"\n'
    '[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nmode = "off"\n'
)


def low(patch):
    """Core's 467 documents are too many to hold, its sample small."""
    patch.setattr(corpus, "LARGE", 150)
    patch.setattr(corpus, "SAMPLE", 20)
    patch.setattr(corpus, "JUDGED", 30)
    patch.setattr(recorded, "BLOCK", BLOCK)


@pytest.fixture
def _low(monkeypatch):
    low(monkeypatch)


@pytest.fixture(scope="module")
def project(tiny, tmp_path_factory):
    """Core's retrieval part as a large suite of a tiny model, its golden recorded; and the same as one that is held."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text(CONFIG)
    shutil.copytree(tiny("dense") / "model", folder / "model")
    (folder / "large").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        shutil.copy(CORE / name, folder / "large")
    held = Session(load_config(folder))
    golden.record(held.model("tiny"), held.suite("held"), held.config.golden_root, "tests")
    with pytest.MonkeyPatch.context() as patch:
        low(patch)
        # another process of the same test run records this very golden, perhaps at this moment
        patch.setattr(corpus_vectors, "cache_folder", lambda: folder / "cache")
        found = Session(load_config(folder))
        golden.record(found.model("tiny"), found.suite("large"), found.config.golden_root, "tests")
        found.golden("tiny", "large")
    return folder, found


@pytest.fixture
def large(project):
    return project[1]


@pytest.fixture
def coder(large, tmp_path):
    """int8, with vectors that no other test finds in the cache."""
    precision = parse_precision("int8")
    found = candidate_coder(large.artifact(precision, "tiny"), precision, "cpu", lambda: large.encoder(precision, "tiny"))
    return replace(found, key={**found.key, "test": str(tmp_path)})


def folder_of(large, coder):
    return corpus_vectors._folder(large.suite("large").corpus, coder, BLOCK)


def target(precision="int8"):
    return Target(parse_precision(precision), "tiny", "large")


def written(folder, documents, judged=(("q", "d0", 1),)):
    folder.mkdir(exist_ok=True)
    rows = [{"_id": i, "text": text} for i, text in documents]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which is it"}\n')
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, j)) + "\n" for j in judged))
    return load_suite("s", {"s": Source(str(folder))})


def many(n=400):
    return [(f"d{i}", f"text of document {i}") for i in range(n)]


@pytest.mark.usefixtures("_low")
def test_a_large_suite_holds_queries_judged_documents_and_a_sample(tmp_path):
    documents = [*many(), ("again", "text of document 3")]
    suite = written(tmp_path, documents, [("q", "d7", 1), ("q", "d9", 0), ("q", "again", 2)])
    found = suite.corpus
    assert (found.documents, found.rows) == (401, 400)
    assert found.qrels == {0: {7: 1, 9: 0, 400: 2}}
    assert set(suite.document_ids) >= {"d7", "again"}
    assert 20 <= len(suite.documents) <= 22
    assert {suite.document_ids[d]: g for d, g in suite.qrels[0].items()}.items() >= {"d7": 1, "again": 2}.items()
    assert found.documents_of(np.array([5, 3])).tolist() == [5, 3, 400]
    blocks = list(found.blocks(150, 100))
    assert [d.id for block in blocks for d in block] == [f"d{i}" for i in range(100, 400)]
    assert [len(b) for b in blocks] == [150, 150]


@pytest.mark.usefixtures("_low")
def test_the_hash_is_that_of_every_document(tmp_path):
    before = written(tmp_path, many()).sha256
    assert written(tmp_path, many()).sha256 == before
    assert written(tmp_path, [*many()[:-1], ("d399", "other")]).sha256 != before
    assert written(tmp_path, many(), [("q", "d0", 2)]).sha256 != before


@pytest.mark.usefixtures("_low")
def test_ids_are_those_of_one_document_each(tmp_path):
    with pytest.raises(DataProblem, match=r"corpus.jsonl:401: the id 'd7' is there twice"):
        written(tmp_path, [*many(), ("d7", "other")])
    with pytest.raises(DataProblem, match=r"qrels.tsv:2: document 'nowhere' is judged, and the suite does not hold it"):
        written(tmp_path, many(), [("q", "nowhere", 1)])


@pytest.mark.usefixtures("_low")
def test_documents_that_change_while_they_are_read_are_an_error(tmp_path):
    suite = written(tmp_path, many())
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"_id": i, "text": t + "!"}) + "\n" for i, t in many()))
    with pytest.raises(DataProblem, match="changed while they were read"):
        list(suite.corpus.blocks(1000))


def test_a_suite_at_the_limit_is_held_as_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "LARGE", 400)
    assert written(tmp_path, many()).corpus is None
    assert written(tmp_path, many(401)).corpus is not None


def test_ranking_and_task_are_those_of_a_suite_that_is_held(large):
    held = Session(large.config).comparison(replace(target(), suite="held"))
    found = large.comparison(target())
    assert len(found.suite.texts) < 200 < found.suite.corpus.documents
    want = items(held).rows[list(held.suite.queries)]
    rows = items(found).rows
    assert [found.suite.texts[q] for q in found.suite.queries] == [held.suite.texts[q] for q in held.suite.queries]
    np.testing.assert_allclose(rows, want, atol=1e-12)
    assert (rows[:, 0] < 1).any()  # int8 moves some neighbors, or this would compare nothing
    values = {m.name: m.value for m in measure(found, "ranking") if m.slice is None}
    for metric in METRICS[:5]:
        assert values[metric.name] == pytest.approx(float(metric.reduce(want)), abs=1e-12)
    task, all_ = ({m.name: m.value for m in measure(c, "task") if m.slice is None} for c in (found, held))
    assert "task.recall@10_retention" in task
    assert "task.map" not in task  # a hundred documents are too few for it
    assert task == pytest.approx({k: v for k, v in all_.items() if k in task}, abs=1e-12)


def test_every_check_is_measured_and_quantized_vectors_are_refused(large):
    names = {c.name for f in ("embedding", "similarity", "ranking", "task", "invariance") for c in large.checks(target(), f)}
    assert names >= {"embedding.cosine_mean", "similarity.spearman", "ranking.overlap@10", "task.ndcg@10_retention"}
    assert large.golden("tiny", "large").retrieved.rows.shape == (127, 100)
    with pytest.raises(MeasurementProblem, match=r"quantized or cut are not measured on suite 'large'"):
        large.comparison(target("int8+binary"))


@pytest.mark.usefixtures("_low")
def test_a_golden_is_stale_when_one_document_changes(project, tmp_path):
    folder = shutil.copytree(project[0], tmp_path / "copy")
    assert Session(load_config(folder)).golden("tiny", "large").retrieved.documents == 467
    file = folder / "large" / "corpus.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[200] = lines[200].replace('"text": "', '"text": "Not ')
    file.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(GoldenProblem, match=r"golden tiny/large is stale; suite differ"):
        Session(load_config(folder)).golden("tiny", "large")


ENCODE = """
import sys
from dataclasses import replace
from pathlib import Path
from qguard.config import load_config
from qguard.goldens.vectors import candidate_coder, encode_corpus
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.suites import corpus
corpus.LARGE, corpus.SAMPLE, corpus.JUDGED = 150, 20, 30
harness, precision = Session(load_config(Path(sys.argv[1]))), parse_precision("int8")
artifact = harness.artifact(precision, "tiny")
coder = candidate_coder(artifact, precision, "cpu", lambda: harness.encoder(precision, "tiny"))
encode_corpus(harness.suite("large").corpus, replace(coder, key={**coder.key, "test": sys.argv[2]}), int(sys.argv[3]))
"""


def test_a_killed_encode_continues_with_identical_bytes(project, large, coder, tmp_path):
    whole = replace(coder, key={**coder.key, "test": "whole"})
    want, tokens = encode_corpus(large.suite("large").corpus, whole, BLOCK)
    folder = folder_of(large, coder)
    process = subprocess.Popen([sys.executable, "-c", ENCODE, str(project[0]), str(tmp_path), str(BLOCK)])
    end = time.monotonic() + 60
    while time.monotonic() < end and blocks_of(folder) < 2:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    done = blocks_of(folder)
    assert 2 <= done < len(tokens)
    with (folder / VECTORS).open("ab") as file:  # as a kill amid a write leaves it
        file.write(b"torn")
    encoded = []
    found, again = encode_corpus(large.suite("large").corpus, counting(coder, encoded), BLOCK)
    assert len(encoded) == len(tokens) - done
    assert again == tokens
    assert found.path.read_bytes() == want.path.read_bytes()
    shutil.rmtree(folder_of(large, whole))
    shutil.rmtree(folder)


def blocks_of(folder):
    state = folder / STATE
    return len(json.loads(state.read_text())["blocks"]) if state.exists() else 0


def counting(coder, seen):
    def encode(texts, ids):
        seen.append(len(texts))
        return coder.encode(texts, ids)

    return replace(coder, encode=encode)


def test_a_damaged_block_is_encoded_again(large, coder):
    documents = large.suite("large").corpus
    file, tokens = encode_corpus(documents, coder, BLOCK)
    whole = bytearray(file.path.read_bytes())
    damaged = whole.copy()
    damaged[5 * BLOCK * file.dim * 4 + 77] ^= 1
    file.path.write_bytes(damaged)
    encoded = []
    assert encode_corpus(documents, counting(coder, encoded), BLOCK)[1] == tokens
    assert len(encoded) == len(tokens) - 5
    assert file.path.read_bytes() == whole
    encode_corpus(documents, counting(coder, encoded), BLOCK)
    assert len(encoded) == len(tokens) - 5  # nothing is encoded twice
    shutil.rmtree(folder_of(large, coder))


def test_vectors_that_were_encoded_before_are_used_in_a_read_only_cache(large, coder, monkeypatch):
    def read_only(path):
        raise OSError(30, "Read-only file system", str(path))

    documents = large.suite("large").corpus
    want = encode_corpus(documents, coder, BLOCK)
    monkeypatch.setattr("filelock.FileLock", read_only)
    assert encode_corpus(documents, replace(coder, encode=None), BLOCK) == want
    with pytest.raises(MeasurementProblem, match="cannot be kept in the cache: Read-only file system"):
        encode_corpus(documents, replace(coder, key={**coder.key, "test": "another"}), BLOCK)


def test_vectors_that_are_not_finite_name_the_document(large, coder):
    def encode(texts, ids):
        out = np.ones((len(texts), 4), np.float32)
        out[3] = np.nan
        return out

    with pytest.raises(MeasurementProblem, match=rf"int8: the embeddings of 1 of {BLOCK} documents hold NaN.* first: 'l4'"):
        encode_corpus(large.suite("large").corpus, replace(coder, encode=encode), BLOCK)


def test_a_cache_without_room_says_what_is_needed(large, coder, monkeypatch):
    monkeypatch.setattr(corpus_vectors.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(MeasurementProblem, match=r"GB are needed, 0.0 GB are free; QGUARD_CACHE names another folder"):
        encode_corpus(large.suite("large").corpus, coder, BLOCK)


def test_token_ids_of_documents_must_be_the_goldens_before_any_is_encoded(large, coder):
    suite, found = large.suite("large"), large.golden("tiny", "large")
    other = replace(coder, tokenize=lambda texts: coder.tokenize([t.replace("the", "a") for t in texts]))

    def check(stored, candidate):
        def run(number, digest):
            recorded.compare_block(stored, suite, large.model("tiny"), number, digest, candidate)

        encode_corpus(suite.corpus, replace(candidate, encode=None), BLOCK, run)

    with pytest.raises(
        GoldenProblem, match=r"among the 64 documents from 'l1' on: the artifact's tokenizer is not the model's.*First: 'l1'"
    ):
        check(found, other)
    tokens = (found.retrieved.tokens[0][::-1], *found.retrieved.tokens[1:])
    with pytest.raises(GoldenProblem, match="the tokenizer changed, the model's own gives others too"):
        check(replace(found, retrieved=replace(found.retrieved, tokens=tokens)), coder)


def test_a_review_says_what_the_queries_find_and_which_token_ids_change(project):
    large = project[1]
    found = large.golden("tiny", "large").retrieved
    assert found.moved(found) == ("queries: 0 of 127 find another first document, overlap@10 1.0000", "")
    rows = found.rows.copy()
    rows[0, :2] = rows[0, 1::-1]
    rows[1, 9] = rows[1, 50]
    words, tokens = found.moved(replace(found, rows=rows, tokens=("0" * 64, *found.tokens[1:])))
    assert words == f"queries: 1 of 127 find another first document, overlap@10 {1 - 0.1 / 127:.4f}"
    assert tokens == f"token ids of documents change in 1 of 8 blocks of {BLOCK}"
    text = (large.config.golden_root / "tiny" / "large" / "summary.md").read_text()
    assert "A corpus of 467 documents" in text


def test_vectors_of_fp32_leave_the_cache_when_the_golden_is_stored(project):
    assert [p.suffix for p in (project[0] / "cache").iterdir()] == [".lock"]


READ = """
import resource, sys
import numpy as np
from qguard.vectors import search
from qguard.metrics.neighbours import search as find
from qguard.suites import load_suite
from qguard.suites.source import Source
import qguard.suites.reader, threadpoolctl
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rng = np.random.default_rng(0)
queries = rng.standard_normal((100, 384), np.float32)
search.top_k(queries, rng.standard_normal((4096, 384), np.float32), 10)
before = peak()
suite = load_suite("s", {"s": Source(sys.argv[1])})
assert suite.corpus.rows == int(sys.argv[3])
find(suite, queries, search.VectorFile(__import__("pathlib").Path(sys.argv[2]), suite.corpus.rows, 384))
print(peak() - before)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_texts_or_the_vectors(tmp_path):
    count = 150_000
    filling = " ".join(["words that take memory"] * 25)
    (tmp_path / "suite").mkdir()
    with (tmp_path / "suite" / "corpus.jsonl").open("w") as file:
        for i in range(count):
            file.write(f'{{"_id": "d{i}", "text": "{i} {filling}"}}\n')
    (tmp_path / "suite" / "queries.jsonl").write_text('{"_id": "q", "text": "which is it"}\n')
    block = np.random.default_rng(1).standard_normal((10_000, 384), np.float32)
    with (tmp_path / "vectors").open("wb") as file:
        for i in range(count // len(block)):
            (block / np.linalg.norm(block, axis=1, keepdims=True) * (1 + i / 1000)).astype(np.float32).tofile(file)
    command = [sys.executable, "-c", READ, str(tmp_path / "suite"), str(tmp_path / "vectors"), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    texts, vectors = 150_000 * 600 / 2**20, (tmp_path / "vectors").stat().st_size / 2**20
    assert texts + vectors > 300
    assert float(done.stdout) < 200


def test_a_report_shows_changed_neighbours_by_their_id(large):
    """No text of most of them is held; the sample's is shown."""
    found, suite = details(large, target(), "ranking"), large.suite("large")
    queries, texts = found["neighbours"]["queries"], found["texts"]
    assert 0 < len(queries) <= QUERIES
    assert found["neighbours"]["of"] == len(suite.queries)
    keys = {key for q in queries for side in ("fp32", "candidate") for key, _ in q[side]}
    assert keys <= {f"document {suite.corpus.id(d)}" for d in range(467)} & set(texts)
    assert {texts[k] for k in keys} > {k for k in keys if k.removeprefix("document ") not in suite.document_ids}
    assert all(texts[q["text"]][:100] == suite.texts[int(q["text"])][:100] for q in queries)
    rows = items(large.comparison(target())).rows
    worst = np.argsort(-METRICS[0].worst(rows), kind="stable")[: len(queries)]
    lost = sum(1 - len({k for k, _ in q["fp32"]} & {k for k, _ in q["candidate"]}) / 10 for q in queries)
    assert lost == pytest.approx((1 - rows[worst, 0]).sum())
