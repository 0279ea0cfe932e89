"""Whatever a file holds, reading it gives a value or one of qguard's own errors, never another exception.

``--hypothesis-profile thorough`` tries a thousand inputs for each test.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from qguard import accepted
from qguard import goldens as golden
from qguard.config import load_config
from qguard.config.tables import GateConfig
from qguard.errors import QguardError
from qguard.families import metric_names
from qguard.files import dump_json
from qguard.gates import Gate, gates_for, parse_gate
from qguard.metrics.bounds import Bound
from qguard.models.pipeline import Pipeline, read_pipeline
from qguard.precisions import parse_precisions
from qguard.precisions.calibration import Calibration
from qguard.robustness.kept import read_kept
from qguard.suites import Suite
from qguard.suites.columns import NAMES
from qguard.suites.formats import FORMATS
from qguard.suites.reader import read_suite
from qguard.suites.source import Source
from qguard.texts.strategies import texts
from tests import profiles  # noqa: F401

NUMBERS = st.integers(-3, 3) | st.integers() | st.floats() | st.sampled_from([10**400, -(10**25), 2**63])
SCALARS = st.none() | st.booleans() | NUMBERS | texts(size=3, longest=12) | st.sampled_from(["", "0.5", "1", "nan", "\ud800"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(2, 6), inner, max_size=3), max_leaves=6
)
ODD_LINES = st.sampled_from(
    ['{"text": ' + "9" * 5000 + "}", "[" * 2000, '{"a": 1', "\x00", "null", "\ufeff{}", "{}", '{"text": NaN}']
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("parsed")


def parses(call):
    """Run a parser; ``None`` where it refuses its input in words."""
    with suppress(QguardError):
        value = call()
        event("parsed")
        return value
    event("refused")
    return None


@st.composite
def mutated(draw, good: bytes) -> bytes:
    """Bytes of a good file: cut, flipped, doubled, or with others put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["flip", "cut", "insert", "double", "remove"]))
        if how == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            data = data[:at]
        elif how == "insert":
            data[at:at] = draw(
                st.binary(max_size=6) | st.sampled_from([b'"', b"\n", b"{", b"]", b"=", b"\xef\xbb\xbf", b"9" * 5000])
            )
        elif how == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
        else:
            del data[at : at + draw(st.integers(1, 20))]
    return bytes(data)


@st.composite
def with_other_values(draw, good: object) -> object:
    """A JSON value in which some parts are others."""
    if draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    if isinstance(good, dict):
        out = {k: draw(with_other_values(v)) for k, v in good.items() if draw(st.integers(0, 9))}
        return out | draw(st.dictionaries(texts(1, 4), JSON, max_size=1))
    if isinstance(good, list):
        return [draw(with_other_values(v)) for v in good]
    return good


GOOD = """
[tool.qguard]
suites = ["core", "own"]
precisions = ["int8", "legal8", "bf16@openvino"]
golden = "golden"
strict = true
[tool.qguard.models]
minilm = "sentence-transformers/all-MiniLM-L6-v2"
e5 = {ref = "models/e5", prompts = {query = "query: "}, max_seq_length = 384, pooling = "mean"}
[tool.qguard.suite.own]
path = "own.jsonl"
scores = [0.0, 5.0]
columns = {text = "body"}
[tool.qguard.gates.int8]
"ranking.overlap@10" = ">= 0.9"
"task.ndcg@10_retention" = {bound = ">= 0.98", on = "lower"}
[tool.qguard.gates."+binary"]
"embedding.cosine_min" = ">= 0.6"
[tool.qguard.precision.legal8]
recipe = "int8"
samples = 20
[tool.qguard.latency]
mode = "report"
tokens = [16, 64]
speedup = ">= 1.5"
[tool.qguard.robustness]
mode = "gate"
examples = 20
"""
KEYS = [
    "tool", "qguard", "models", "suites", "suite", "gates", "precision", "precisions", "latency", "robustness", "vectors",
    "golden", "strict", "device", "mode", "examples", "seed", "replay", "ref", "path", "columns", "scores",
    "recipe", "samples", "calibration", "overlap", "bound", "on", "tokens", "budget", "speedup", "int8", "minilm", "folder"
]  # fmt: skip


def toml(value: object) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, bool | int | float | str) else '""'


TOML = st.recursive(
    st.booleans() | NUMBERS | texts(2, 6) | st.sampled_from([">= 0.9", "int8", "core", "gate", "lower", "../x", "a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | texts(1, 4), inner, max_size=4),
    max_leaves=8,
)


def read_configuration(folder: Path, data: bytes) -> None:
    file = folder / "pyproject.toml"
    file.write_bytes(data)

    def read() -> None:
        config = load_config(file)
        for precision in parse_precisions("all", config.precisions, config.own_precisions):
            gates_for(precision, config.gates)
        assert config.select([], []).suites

    parses(read)


@given(data=mutated(GOOD.encode()))
def test_a_damaged_configuration(folder, data):
    read_configuration(folder, data)


@given(table=st.dictionaries(st.sampled_from(KEYS), TOML, max_size=5), depth=st.integers(0, 2))
def test_a_configuration_of_other_kinds_of_values(folder, table, depth):
    inner = "".join(f"{k} = {toml(v)}\n" for k, v in table.items())
    read_configuration(folder, (("", "[tool]\n", "[tool.qguard]\n")[depth] + inner).encode("utf-8", "surrogatepass"))


KEY = st.builds(
    "{}{}".format, st.sampled_from(metric_names()), st.sampled_from(["", "[legal]", "[*]", "[", "[]", "[[x]]"])
) | texts(2, 6)
BOUND = st.builds("{} {}".format, st.sampled_from([">=", "<=", ">", "=", "=>", ""]), NUMBERS | texts(1, 3)) | texts(2, 6)


@given(
    key=KEY, bound=BOUND, on=st.sampled_from(["value", "lower", "upper"]), vectors=st.sampled_from(["float32", "int8", "binary"])
)
def test_gate_expressions(key, bound, on, vectors):
    gate = parses(lambda: parse_gate(key, GateConfig(bound=Bound.parse(bound), on=on), vectors))
    if gate is not None:
        assert isinstance(gate, Gate)
        assert gate.bound.holds(gate.bound.number)
        assert not gate.bound.holds(float("nan"))
        assert parse_gate(key, f"{gate.bound.op} {gate.bound.number!r}", vectors).bound == gate.bound


@given(
    op=st.sampled_from([">=", "<="]),
    number=st.floats(allow_nan=False, allow_infinity=False),
    space=st.sampled_from(["", " ", "\t "]),
)
def test_every_finite_bound_is_read_as_it_is_written(op, number, space):
    bound = Bound.parse(f"{space}{op}{space}{number!r}{space}")
    assert bound == Bound(op, number) == Bound.from_json(json.loads(dump_json(bound.to_json())))


@given(
    text=texts(3, 8)
    | st.lists(st.sampled_from(["int8", "fp32", "bf16", "all", "@", "+", ",", "torch", "onnx", "binary", "-"]), max_size=6).map(
        "".join
    )
)
def test_precisions(text):
    assert parses(lambda: parse_precisions(text, ("int8",), {})) != []


@pytest.fixture(scope="module")
def recorded(folder) -> Path:
    """A golden of two texts, sealed as one is that was recorded."""
    from qguard.goldens.recording import _pack

    where = folder / "golden" / "minilm" / "own"
    where.mkdir(parents=True)
    data = _pack(np.eye(2, 3, dtype=np.float32), [[101, 7, 102], [101, 102]], Suite("own", ("a", "b"), (None, None)))
    manifest = {
        "schema": 1, "data_sha256": hashlib.sha256(data).hexdigest(), "date": "2026-01-01", "reason": "r",
        "model": {"name": "minilm"},
        "hashes": dict.fromkeys(("weights", "tokenizer", "pipeline", "suite"), "0" * 64), "suite": {"name": "own", "texts": 2},
        "versions": {"numpy": "2.0"},
    }  # fmt: skip
    golden.store(where, data, manifest)
    return where


def read_golden(where: Path) -> None:
    def read() -> None:
        found = golden.read(where)
        assert golden.describe(found)
        assert len(found.vectors) == len(found.token_ids)

    parses(read)


@given(draw=st.data())
def test_a_damaged_golden(recorded, draw):
    name = draw.draw(st.sampled_from(sorted(p.name for p in recorded.iterdir())))
    file = recorded / name
    good = file.read_bytes()
    try:
        file.write_bytes(draw.draw(mutated(good)))
        read_golden(recorded)
    finally:
        file.write_bytes(good)


@given(draw=st.data())
def test_a_golden_that_was_sealed_again(recorded, draw):
    file = recorded / "manifest.json"
    good = file.read_bytes()
    manifest = draw.draw(with_other_values(json.loads(good)))
    try:
        with suppress(ValueError):  # a lone surrogate, or a number that JSON cannot hold
            file.write_text(json.dumps(golden.seal(manifest) if isinstance(manifest, dict) else manifest), encoding="utf-8")
        read_golden(recorded)
    finally:
        file.write_bytes(good)


@given(draw=st.data())
def test_a_golden_whose_data_was_sealed_again(recorded, draw):
    file = next(recorded.glob("golden-*.safetensors"))
    good, manifest = file.read_bytes(), (recorded / "manifest.json").read_bytes()
    data = draw.draw(mutated(good))
    facts = {**json.loads(manifest), "data_sha256": hashlib.sha256(data).hexdigest()}
    try:
        file.write_bytes(data)
        (recorded / "manifest.json").write_text(json.dumps(golden.seal(facts)))
        read_golden(recorded)
    finally:
        file.write_bytes(good)
        (recorded / "manifest.json").write_bytes(manifest)


ACCEPTED = {
    "schema": 1,
    "latency": [{"metric": "latency.speedup", "ratio": 2.0}],
    "scores": [{"scope": {}, "values": {"a": {"value": 1}}}],
}


@given(value=with_other_values(ACCEPTED))
def test_accepted_scores(folder, value):
    where = folder / "accepted"
    where.mkdir(exist_ok=True)
    with suppress(ValueError):
        (where / "accepted.json").write_text(json.dumps(value), encoding="utf-8")
    parses(lambda: accepted.stored.read(where))


def read_all(path: Path, **settings: object) -> None:
    found = parses(lambda: read_suite("own", Source(str(path), **settings)))  # type: ignore[arg-type]
    if found is not None:
        size = len(found.texts)
        assert size == len(found.slices) > 0
        assert all(0 <= i < size for p in found.pairs for i in (p.a, p.b))
        assert all(0 <= i < size for i in (*found.queries, *found.documents))
        "".join(found.texts).encode()  # no tokenizer accepts anything else
        assert len(found.sha256) == 64


COLUMN = st.sampled_from([n for names in NAMES.values() for n in names])
ROWS = st.dictionaries(COLUMN | texts(1, 3), SCALARS | JSON, max_size=4)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from([*FORMATS, "nothing"]),
        "columns": st.lists(
            st.tuples(st.sampled_from([*NAMES, "x"]), COLUMN | st.just("")), max_size=2, unique_by=lambda c: c[0]
        ).map(tuple),
        "scores": st.sampled_from([(), (0.0, 1.0), (0.0, 5.0)]),
        "split": st.sampled_from(["", "test", "train"]),
        "duplicates": st.sampled_from(["error", "keep"]),
    },
)


def jsonl(rows: list[object]) -> bytes:
    return "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows).encode("utf-8", "surrogatepass")


@given(rows=st.lists(ROWS | ODD_LINES, max_size=5), settings=SETTINGS)
def test_jsonl(folder, rows, settings):
    (folder / "own.jsonl").write_bytes(jsonl(rows))
    read_all(folder / "own.jsonl", **settings)


@given(data=st.binary(max_size=60) | mutated(b'{"text": "a dog", "slice": "x"}\n{"text": "a cat", "slice": "y"}\n'))
def test_damaged_jsonl(folder, data):
    (folder / "own.jsonl").write_bytes(data)
    read_all(folder / "own.jsonl")


CELLS = texts(2, 6) | st.sampled_from(['"', '""', ",", "\t", "a,b", "0.5", "1e999", "nan", "\r", "\n"])
TABLE = st.lists(st.lists(CELLS, max_size=4), max_size=4)


@given(names=st.lists(COLUMN, max_size=4), rows=TABLE, suffix=st.sampled_from([".csv", ".tsv", ".txt"]), settings=SETTINGS)
def test_csv_tsv_and_lines(folder, names, rows, suffix, settings):
    gap = "\t" if suffix == ".tsv" else ","
    file = folder / f"own{suffix}"
    file.write_bytes("\n".join(gap.join(cells) for cells in [names, *rows]).encode("utf-8", "surrogatepass"))
    read_all(file, **settings)


IDS = st.sampled_from(["q1", "q2", "d1", "d2", "", "1"]) | SCALARS
QUERIES = st.lists(st.fixed_dictionaries({"_id": IDS, "text": texts(3, 6) | SCALARS}), min_size=0, max_size=3)
GRADES = st.sampled_from(["0", "1", "2", "0.5", "-1", "x", "1e300", "nan", ""])


@given(
    corpus=QUERIES, queries=QUERIES, judged=st.lists(st.tuples(IDS.map(str), IDS.map(str), GRADES), max_size=4), settings=SETTINGS
)
def test_beir_folders(folder, corpus, queries, judged, settings):
    where = folder / "beir"
    shutil.rmtree(where, ignore_errors=True)
    (where / "qrels").mkdir(parents=True)
    (where / "corpus.jsonl").write_bytes(jsonl(corpus))
    (where / "queries.jsonl").write_bytes(jsonl(queries))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(j) for j in judged)]
    (where / "qrels" / "test.tsv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    read_all(where, **settings)


@given(rows=st.lists(ROWS | ODD_LINES, max_size=4), samples=st.integers(1, 5), seed=st.integers())
def test_calibration_files(folder, rows, samples, seed):
    (folder / "clauses.jsonl").write_bytes(jsonl(rows))
    sample = parses(lambda: Calibration(folder / "clauses.jsonl", "clauses", samples, seed).sample)
    if sample is not None:
        assert 0 < len(sample.texts) <= samples
        assert all(t.strip() for t in sample.texts)


FILES = {
    "modules.json": [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 3, "pooling_mode_mean_tokens": True, "include_prompt": True},
    "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    "config_sentence_transformers.json": {"prompts": {"query": "query: "}, "default_prompt_name": None},
    "tokenizer_config.json": {"model_max_length": 512},
    "config.json": {"max_position_embeddings": 512},
}


@given(draw=st.data())
def test_the_files_of_a_model(folder, draw):
    where = folder / "model"
    (where / "1_Pooling").mkdir(parents=True, exist_ok=True)
    for name, good in FILES.items():
        (where / name).write_text(json.dumps(good))
    name = draw.draw(st.sampled_from(list(FILES)))
    with suppress(ValueError):
        (where / name).write_text(json.dumps(draw.draw(with_other_values(FILES[name]))), encoding="utf-8")
    found = parses(lambda: read_pipeline(where))
    if found is not None:
        assert isinstance(found, Pipeline)
        assert found.max_seq_length > 0
        assert all(isinstance(found.prefix(role), str) for role in (None, "query", "document"))
        assert len(found.sha256()) == 64


@given(data=st.binary(max_size=40) | st.lists(ROWS | ODD_LINES, max_size=3).map(jsonl))
def test_kept_texts(folder, data):
    (folder / "kept.jsonl").write_bytes(data)
    assert all(isinstance(t, str) for t in read_kept(folder / "kept.jsonl"))
