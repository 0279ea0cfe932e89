"""qguard's own families, in the order of the gate."""

from __future__ import annotations

from qguard.families import TIMED, Family, Parts
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS, MULTI_VECTOR, SPARSE
from qguard.metrics import (
    Comparison,
    MetricInfo,
    cpus,
    embedding,
    index,
    invariance,
    mixed,
    ranking,
    regression,
    scores,
    service,
    similarity,
    sparse,
    task,
    tokens,
    truncation,
)
from qguard.vectors.quantized import FLOAT

# the kinds whose texts are ranked by their outputs
_OF_TEXTS = (DENSE, SPARSE, MULTI_VECTOR)
_BY_PRECISION = "the default bounds of each precision"


def _embedding(c: Comparison) -> Parts:
    return [(embedding.items(c), embedding.METRICS)]


def _weights(c: Comparison) -> Parts:
    return [(sparse.items(c), sparse.METRICS)]


def _similarity(c: Comparison) -> Parts:
    return [(similarity.items(c), similarity.METRICS)]


def _ranking(c: Comparison) -> Parts:
    return [(ranking.items(c), ranking.METRICS), *mixed.parts(c)]


def _artifact(what: str, better: bool, unit: str, description: str) -> MetricInfo:
    return MetricInfo(f"artifact.{what}", higher_is_better=better, unit=unit, description=description, source="qguard")


ARTIFACT = (
    _artifact("quantized_ops", True, "share in [0, 1]", "multiplications with weights that are in the promised precision"),
    _artifact("quantized_bytes", True, "share in [0, 1]", "bytes of weight matrices that are in the promised element type"),
    _artifact("granularity", True, "share in [0, 1]", "quantized multiplications whose scales are as fine as promised"),
    _artifact("nonfinite", False, "values, 0 or more", "stored numbers that are NaN or infinite"),
    _artifact("wrong_rows", False, "rows, 0 or more", "rows of embedding tables that are not the model's"),
    _artifact("weight_error", False, "relative error, 0 or more", "the largest error of a weight matrix against fp32's"),
    _artifact("activation_range", False, "width, 0 or more", "the widest stored range of an activation"),
    _artifact("opset", True, "version", "the version of ONNX's operators that the file declares"),
    _artifact("saturation", False, "share in [0, 1]", "output channels whose products can overflow on x86 without VNNI"),
    _artifact("overflow", False, "ratio, 0 or more", "the largest activation over the largest number of its 16-bit type"),
    _artifact("unit_length", False, "distance, 0 or more", "distance of the length of a vector that the file has pooled from 1"),
    _artifact("output_agreement", True, "cosine in [-1, 1]", "the file's own pooled output to its token embeddings, pooled here"),
    _artifact("head", True, "0 or 1", "whether the outputs are those of the model's own pooling, Dense modules or classifier"),
    _artifact("size_ratio", False, "ratio of bytes", "bytes of the weights over those of fp32"),
)


def _robustness(what: str, better: bool, unit: str, description: str) -> MetricInfo:
    name = f"robustness.{what}"
    return MetricInfo(name, higher_is_better=better, unit=unit, description=description, source="qguard", vectors=(FLOAT,))


TOKENIZER = (
    MetricInfo(
        "tokenizer.mismatches", higher_is_better=False, unit="texts, 0 or more",
        description="texts that the runtime's own tokenizer gives other token ids than the golden's", source="qguard",
    ),
    MetricInfo(
        "tokenizer.alike", higher_is_better=True, unit="share in [0, 1]",
        description="texts that a runtime that is given the golden's token ids would read as these", source="qguard",
    ),
)  # fmt: skip
COUNT, _COSINE = "texts", "cosine in [-1, 1]"  # lengths counted where the model ranks by a similarity in which they count
ROBUSTNESS = (
    _robustness("token_mismatches", False, COUNT, "texts whose token ids differ from the base model's"),
    _robustness("broken_vectors", False, COUNT, "texts whose vector holds NaN or infinity, or only zeros"),
    _robustness("norm_error", False, "distance, 0 or more", "distance of the norm from 1, where the pipeline normalizes"),
    _robustness("cosine_min", True, _COSINE, "cosine to fp32 of the same runtime"),
    _robustness("batch_cosine_min", True, _COSINE, "cosine between alone and in a batch"),
    _robustness("padding_cosine_min", True, _COSINE, "cosine between with and without padding"),
    _robustness("order_cosine_min", True, _COSINE, "cosine between a batch and the same reversed"),
    _robustness("repeat_cosine_min", True, _COSINE, "cosine between the same input twice"),
)


def _latency(name: str, better: bool, description: str, unit: str = "ratio") -> MetricInfo:
    return MetricInfo(name, higher_is_better=better, unit=unit, description=description, source="qguard", vectors=(FLOAT,))


_MS, _SHARE, _STATED = "milliseconds", "share in [0, 1]", "as another load tool states it (qguard latency import)"


LATENCY = (
    _latency("latency.speedup", True, "time of fp32 over that of the artifact, in the same runtime and run"),
    _latency("latency.regression", False, "time of the artifact over that of the deployed one, in the same run"),
    _latency("latency.trend", False, "slowdown against the accepted ratio, on an equal machine"),
    _latency("latency.p50", False, "median latency of a server's requests under load", _MS),
    _latency("latency.p95", False, "95th percentile of the latencies of a server's requests under load", _MS),
    _latency("latency.p99", False, "99th percentile of the latencies of a server's requests under load", _MS),
    _latency("latency.failed", False, "requests under load that failed or were not answered in time", _SHARE),
    _latency("latency.throughput", True, "answers under load; no gate bounds it", "answers per second"),
    _latency("latency.stated_p50", False, f"median latency, {_STATED}", _MS),
    _latency("latency.stated_p95", False, f"95th percentile of latencies, {_STATED}", _MS),
    _latency("latency.stated_p99", False, f"99th percentile of latencies, {_STATED}", _MS),
    _latency("latency.stated_failed", False, f"requests that failed, {_STATED}", _SHARE),
)
MEMORY = (_latency("memory.ratio", False, "peak memory of a process that runs the artifact, over that of fp32"),)

OWN = (
    Family(
        name="artifact", question="Does the file compute in the precision that it is named after?",
        test="test_artifact_is_quantized", needs=("files",), metrics=ARTIFACT,
        bounded_by="what the recipe promises, and the default bounds of each precision", kinds=tuple(KINDS),
        judge="qguard.judging.artifact:of_target", lead=1,
    ),
    Family(
        name="tokenizer", question="Does the runtime read texts as the same tokens as fp32?", test="test_tokenizer",
        needs=("told",), metrics=TOKENIZER, kinds=tuple(KINDS),
        bounded_by="`tokenizer.mismatches <= 0`, `tokenizer.alike >= 0.99`",
        judge="qguard.judging.tokenizer:of_target", lead=2,
    ),
    Family(
        name="embedding", question="Do the vectors still point where those of fp32 point?", test="test_embeddings",
        needs=("vectors",), metrics=embedding.METRICS, bounded_by=_BY_PRECISION, parts=_embedding, lead=5,
    ),
    Family(
        name="weights", question="Do the words of a sparse model keep their weights?", test="test_weights",
        needs=("vectors",), metrics=sparse.METRICS, bounded_by=_BY_PRECISION, kinds=(SPARSE,), parts=_weights, lead=5,
    ),
    Family(
        name="tokens", question="Do the vectors of tokens still point where those of fp32 point?", test="test_tokens",
        needs=("vectors",), metrics=tokens.METRICS, bounded_by=_BY_PRECISION, kinds=(MULTI_VECTOR,), parts=tokens.parts, lead=5,
        bounds={"tokens.lost": "<= 0", "tokens.gained": "<= 0"},
    ),
    Family(
        name="similarity", question="Do pairs of texts still score what they scored in fp32?", test="test_similarity",
        needs=("vectors",), metrics=similarity.METRICS, bounded_by=_BY_PRECISION, kinds=_OF_TEXTS, parts=_similarity, lead=4,
    ),
    Family(
        name="ranking", question="Do texts still find their fp32 neighbors?", test="test_ranking",
        needs=("vectors",), metrics=(*ranking.METRICS, *mixed.METRICS), bounded_by=_BY_PRECISION, kinds=_OF_TEXTS,
        parts=_ranking, lead=0,
    ),
    Family(
        name="task", question="Do labeled pairs and queries score as well as in fp32?", test="test_task_quality",
        needs=("vectors", "labels"), metrics=task.METRICS, bounded_by=_BY_PRECISION, kinds=tuple(KINDS), parts=task.parts, lead=3,
    ),
    Family(
        name="score", question="Do pairs of texts still get the scores that fp32 gives them?", test="test_scores",
        needs=("vectors",), metrics=scores.METRICS, bounded_by=_BY_PRECISION, kinds=(CROSS_ENCODER,), parts=scores.parts, lead=5,
    ),
    Family(
        name="order", question="Do a query's candidates keep the order that fp32 gives them?", test="test_order",
        needs=("vectors", "candidates"), metrics=scores.ORDER, bounded_by=_BY_PRECISION, kinds=(CROSS_ENCODER,),
        parts=scores.order_parts, lead=0,
    ),
    Family(
        name="truncation", question="How much of the loss comes from fewer dimensions, and how much do both losses cost?",
        test="test_truncation", needs=("vectors", "dimensions"), metrics=truncation.METRICS, bounded_by="gates of the project",
        parts=truncation.parts, lead=9,
    ),
    Family(
        name="invariance", question="Does a text's vector depend on its batch or on padding?", test="test_invariance",
        needs=("vectors",), metrics=invariance.METRICS, bounded_by=_BY_PRECISION, kinds=tuple(KINDS),
        judge="qguard.judging.invariance:of_target", lead=6,
    ),
    Family(
        name="robustness", question="Do generated texts of any script, length and character keep their vectors?",
        test="test_robustness", needs=("generated",), metrics=ROBUSTNESS, bounded_by=_BY_PRECISION, kinds=tuple(KINDS),
        judge="qguard.judging.robustness:judge_robustness", switch="robustness", lead=7,
    ),
    Family(
        name="service", question="Does the server do what it is asked, whoever else asks it?", test="test_service",
        needs=("endpoint",), metrics=service.METRICS, bounded_by="what every server promises (docs/endpoints.md)",
        judge="qguard.judging.service:judge_service", kinds=(DENSE, SPARSE, CROSS_ENCODER), switch="service", lead=6,
    ),
    Family(
        name="index", question="Does an index of a vector database still find what exact search finds?", test="test_index",
        needs=("vectors", "index"), metrics=index.METRICS, bounded_by="what users of an index expect (docs/indexes.md)",
        judge="qguard.judging.index:judge_index", lead=1,
    ),
    Family(
        name="regression", question="Do texts keep the vectors and neighbors that another environment gives them?",
        test="test_regression", needs=("vectors", "baseline"), metrics=regression.METRICS, bounded_by="gates of the project",
        judge="qguard.judging.regression:judge_regression", kinds=tuple(KINDS), lead=8,
    ),
    Family(
        name="cpu", question="Does the artifact compute the same on other CPUs?", test="test_cpus", needs=("vectors", "cpu"),
        metrics=cpus.METRICS, bounded_by="the precision's gates on the same values of the suite (docs/cpus.md)",
        judge="qguard.judging.cpus:judge_cpus", lead=6,
    ),
    Family(
        name="latency", question="Is it as fast as promised, timed against fp32 in this very run?", test=TIMED,
        needs=("process",), metrics=LATENCY,
        bounded_by="the promises of each precision, [tool.qguard.latency] and [tool.qguard.endpoint.NAME.load]",
        judge="qguard.judging.latency:judge_latency", kinds=tuple(KINDS), switch="latency", lead=2,
    ),
    Family(
        name="memory", question="How much memory does a process need that runs it, against fp32?", test=TIMED,
        needs=("process",), metrics=MEMORY, bounded_by="gates of the project",
        judge="qguard.judging.latency:judge_memory", kinds=tuple(KINDS), switch="latency", lead=8,
    ),
)  # fmt: skip
