"""The gates that each precision has without a word in the configuration, each with why.

All were chosen on all-MiniLM-L6-v2. For another model, :mod:`qguard.gates.derived` moves them by what its golden shows.
"""

from __future__ import annotations

from qguard.kinds import CROSS_ENCODER, MULTI_VECTOR, SPARSE
from qguard.metrics.bounds import Bound

# A text's vector does not depend on its batch: what remains is the order of float sums.
INVARIANT = {f"invariance.{m}": ">= 0.9999" for m in ("batch_cosine_min", "order", "padding", "equal_length")}


def _task(pairs: float, retrieval: float) -> dict[str, str]:
    """Shares of fp32's score that labeled suites keep: rank correlation or average precision of pairs, nDCG of queries.

    The task forgives what users notice: a precision that changes one neighbor in ten keeps all of its nDCG. So these gates
    lie near 1 and tell brokenness; the families above tell change. On core one of 127 queries that loses its only good answer
    is worth .008, hence the wider bound on queries.
    """
    return {
        "task.spearman_retention": f">= {pairs}",
        "task.average_precision_retention": f">= {pairs}",
        "task.ndcg@10_retention": f">= {retrieval}",
    }


def _robust(cosine: float, batch: float = 0.9999) -> dict[str, str]:
    """Generated texts (docs/robustness.md): the worst of some hundred, so looser than the same values of a suite.

    Args:
        cosine: To fp32: about three times as far from 1 as the worst text of benchmarks/robustness.py.
        batch: Between alone, in a batch and with padding; the same, where activation ranges are those of the batch.
    """
    return {
        "robustness.token_mismatches": "<= 0",  # one text that is read differently is a bug, not noise
        "robustness.broken_vectors": "<= 0",  # so is one NaN
        "robustness.norm_error": "<= 0.001",  # a normalized model stays normalized
        "robustness.cosine_min": f">= {cosine}",
        "robustness.batch_cosine_min": f">= {batch}",
        "robustness.padding_cosine_min": f">= {batch}",
        "robustness.order_cosine_min": ">= 0.9999",  # the range of a batch does not depend on its order
        "robustness.repeat_cosine_min": ">= 0.9999",  # but for the order of float sums the same input gives the same vector
    }


# int8 and uint8 vectors, dequantized: the same steps, so the same bounds
_SCALAR = {
    "embedding.size_ratio": "<= 0.25",  # one byte a value
    "embedding.clipped": "<= 0.02",  # .004; ranges of 100 texts .019, of 32 .060
    "embedding.cosine_mean": ">= 0.995",  # .9996; wrapped around .953
    "embedding.cosine_p01": ">= 0.985",  # .997; wrapped around .801, ranges of 32 texts .981
    "embedding.cosine_min": ">= 0.93",  # .966; a text far outside the ranges shows here
    "embedding.norm_error": "<= 0.12",  # .085: clipping shortens; ranges of 32 texts .131
    "similarity.spearman": ">= 0.995",  # 1.000; wrapped around .990
    "similarity.p99_error": "<= 0.02",  # .005; wrapped around .148
    "similarity.bias": "<= 0.005",  # .0001; wrapped around .043
}
# the same bits, stored as signed or unsigned bytes
_BINARY = {
    "embedding.size_ratio": "<= 0.04",  # one bit a value, and the last byte filled up
    "embedding.cosine_mean": ">= 0.78",  # .793, of a Gaussian sqrt(2/pi) = .798; threshold at the mean .769, bits reversed 0
    "embedding.cosine_min": ">= 0.65",  # .712; one text whose bits are wrong
    "similarity.spearman": ">= 0.98",  # .989; half of the bits lost .977
    "ranking.overlap@10": ">= 0.57",  # .605: one bit of 384 values; half of them lost .429
    "ranking.overlap@10[*]": ">= 0.4",  # .459; half of the bits lost .227
    "ranking.top1": ">= 0.48",  # .529; half of the bits lost .365
    "ranking.rescored_overlap@10": ">= 0.69",  # .721; offset of 128 forgotten .595, bits reversed .222
    "ranking.rescored_overlap@10[*]": ">= 0.55",  # .600; offset forgotten .491
    "ranking.rescored_top1": ">= 0.63",  # .678; offset forgotten .519
    **_task(0.98, 0.87),  # 1.000 and .909, without rescoring
}
# One line each on why; what every recipe's files must hold is in metrics/artifact.py. A recipe has the tables that its record
# names, in qguard/precisions/own.py: NAME@RUNTIME is laid over NAME there.
_WRITTEN: dict[str, dict[str, str]] = {
    "fp32": {
        **INVARIANT,
        "embedding.cosine_p01": ">= 0.99999",  # only rounding separates runtimes
        "embedding.cosine_min": ">= 0.9999",  # one wrong text is a bug, not noise
        "embedding.norm_error": "<= 0.001",  # an unnormalized output shows here
        "similarity.max_error": "<= 0.001",  # scores agree to three digits
        "ranking.overlap@10": ">= 0.995",  # only exact ties may swap
        "ranking.top1": ">= 0.99",  # the first hit is what users see
        **_task(0.999, 0.998),  # 1.000 both
        **_robust(0.9999),  # 1.0000 on 679 texts: only rounding separates two runs of the same runtime
    },
    "fp16": {
        **INVARIANT,
        "artifact.size_ratio": "<= 0.52",  # half the bytes, or nothing was cast
        "embedding.cosine_p01": ">= 0.9999",  # 11 bits of precision lose no more
        "embedding.cosine_min": ">= 0.999",  # an overflow would show in one text first
        "embedding.norm_error": "<= 0.005",  # norms survive a cast
        "similarity.max_error": "<= 0.005",  # scores agree to two digits
        "ranking.overlap@10": ">= 0.98",  # neighbors are fp32's but for ties
        **_task(0.999, 0.998),  # 1.000 both
        **_robust(0.999),  # as embedding.cosine_min: 11 bits of precision leave every text where it is
    },
    "bf16": {
        **dict.fromkeys(INVARIANT, ">= 0.999"),  # another batch is another order of sums, and 8 bits show it
        "artifact.size_ratio": "<= 0.52",  # half the bytes, or nothing was cast
        "embedding.cosine_p01": ">= 0.999",  # 8 bits of precision
        "embedding.cosine_min": ">= 0.995",  # no single text may fall out
        "embedding.norm_error": "<= 0.02",  # norms survive a cast
        "similarity.max_error": "<= 0.03",  # scores agree to nearly two digits
        "ranking.overlap@10": ">= 0.95",  # one neighbor in twenty may swap
        **_task(0.998, 0.99),  # 1.000 and .999: one query in 127 swaps two answers
        **_robust(0.99, 0.99),  # 8 bits: twice the distance that embedding.cosine_min allows
    },
    "int8": {
        "artifact.size_ratio": "<= 0.7",  # embedding tables may stay float; a no-op may not
        "embedding.cosine_mean": ">= 0.985",  # per-channel reaches .992, per-tensor .95
        "embedding.cosine_p01": ">= 0.96",  # one text in a hundred may move this far
        "embedding.cosine_min": ">= 0.85",  # the worst text still points the same way
        "embedding.norm_error": "<= 0.02",  # a normalized model stays normalized
        "similarity.spearman": ">= 0.985",  # the order of pair scores holds
        "similarity.p99_error": "<= 0.1",  # a 0.92 that becomes 0.82 is a different answer
        "similarity.bias": "<= 0.02",  # a shift of all scores breaks users' thresholds
        "ranking.overlap@10": ">= 0.85",  # per-channel .90, per-tensor and legacy .79
        "ranking.overlap@10[*]": ">= 0.7",  # no domain pays for the mean
        "ranking.top1": ">= 0.8",  # the first hit is what users see
        "ranking.inversions": "<= 0.05",  # documents clearly apart stay in order
        # activation ranges are those of the whole batch: neighbors and padding move a text's vector, MiniLM's to .984
        "invariance.batch_cosine_min": ">= 0.96",
        "invariance.padding": ">= 0.96",
        "invariance.equal_length": ">= 0.96",
        "invariance.order": ">= 0.9999",  # the range of a batch does not depend on its order
        **_task(0.99, 0.98),  # .999 and .999, dynamic ranges
        **_robust(0.85, 0.82),  # dynamic ranges .951, alone against in a batch .943, on 618 texts
    },
    "int8@onnx": {  # fixed ranges; figures in docs/recipes.md
        **INVARIANT,  # nothing depends on the batch
        "artifact.size_ratio": "<= 0.3",  # embedding tables in 8 bits too
        "embedding.cosine_mean": ">= 0.999",  # .9994; calibrated on random tokens .9988, without its outlier channels .98
        "embedding.cosine_p01": ">= 0.997",  # .998; calibrated on random tokens .996
        "embedding.cosine_min": ">= 0.99",  # .997, of 8,000 tweets .993; a text beyond every calibration text shows here
        "similarity.spearman": ">= 0.995",  # .9998; few texts that hardly differ in score come to .998
        "similarity.p99_error": "<= 0.03",  # scores agree to a digit and a half
        "similarity.bias": "<= 0.005",  # users' thresholds keep their meaning
        "ranking.overlap@10": ">= 0.96",  # .97; calibrated on random tokens .955, dynamic ranges per tensor .90
        "ranking.overlap@10[*]": ">= 0.88",  # no domain pays for the mean
        "ranking.top1": ">= 0.92",  # the first hit is what users see
        "ranking.inversions": "<= 0.005",  # documents clearly apart stay in order
        **_task(0.995, 0.985),  # .999 and 1.001
        **_robust(0.98),  # the worst of seven seeds .9936, 1.0000 in a batch
    },
    "int8-weight": {
        **INVARIANT,  # activations are float, or rounded by blocks of one token's values
        "artifact.size_ratio": "<= 0.7",  # embedding tables may stay float; a no-op may not
        "embedding.cosine_mean": ">= 0.998",  # .9996: blocks of 32 values share a scale
        "embedding.cosine_p01": ">= 0.995",  # one text in a hundred may move this far
        "embedding.cosine_min": ">= 0.98",  # no single text may fall out
        "embedding.norm_error": "<= 0.02",  # a normalized model stays normalized
        "similarity.spearman": ">= 0.998",  # the order of pair scores holds
        "similarity.max_error": "<= 0.05",  # no score moves by more than a person would notice
        "similarity.bias": "<= 0.005",  # users' thresholds keep their meaning
        "ranking.overlap@10": ">= 0.94",  # one neighbor in twenty may swap
        "ranking.top1": ">= 0.9",  # the first hit is what users see
        "ranking.inversions": "<= 0.01",  # documents clearly apart stay in order
        **_task(0.997, 0.99),  # 1.001 and .999
        **_robust(0.99),  # .9975 on 668 texts
    },
    "int4": {
        **INVARIANT,  # activations are float
        "artifact.size_ratio": "<= 0.3",  # weights in 4 bits, embedding tables in 8
        "embedding.cosine_mean": ">= 0.965",  # .976; rounded to nearest .966, one scale a channel far less
        "embedding.cosine_p01": ">= 0.92",  # .940
        "embedding.cosine_min": ">= 0.85",  # .904
        "embedding.norm_error": "<= 0.02",  # a normalized model stays normalized
        "similarity.spearman": ">= 0.97",  # the order of pair scores holds
        "similarity.p99_error": "<= 0.12",  # a 0.92 that becomes 0.80 is a different answer
        "similarity.bias": "<= 0.03",  # a shift of all scores breaks users' thresholds
        "ranking.overlap@10": ">= 0.83",  # .859: one neighbor in seven changes; ask for more where that matters
        "ranking.overlap@10[*]": ">= 0.7",  # no domain pays for the mean
        "ranking.top1": ">= 0.78",  # the first hit is what users see
        "ranking.inversions": "<= 0.05",  # documents clearly apart stay in order
        **_task(0.98, 0.97),  # .996 and .998
        **_robust(0.7),  # .908 on 267 texts
    },
    "bf16@openvino": {
        "embedding.cosine_p01": ">= 0.9998",  # .99996: sums are kept in float
        "embedding.cosine_min": ">= 0.999",  # .9999
        "similarity.max_error": "<= 0.01",  # .0017
        "ranking.overlap@10": ">= 0.985",  # .995
        **_robust(0.9995),  # .99993 on 280 texts
    },
    "int8@openvino": {
        "artifact.size_ratio": "<= 0.3",  # embedding tables in 8 bits too
        "embedding.cosine_mean": ">= 0.998",  # .9995
        "embedding.cosine_p01": ">= 0.997",  # .9986; symmetric weights reach .996
        "embedding.cosine_min": ">= 0.99",  # .997; no text may fall out
        "similarity.spearman": ">= 0.999",  # .9999
        "similarity.p99_error": "<= 0.02",  # .010
        "similarity.bias": "<= 0.002",  # .0004
        "ranking.overlap@10": ">= 0.96",  # .973
        "ranking.overlap@10[*]": ">= 0.9",  # no domain pays for the mean
        "ranking.top1": ">= 0.94",  # .961
        "ranking.inversions": "<= 0.005",  # none seen
        **_task(0.995, 0.985),  # .998 and 1.001
        **_robust(0.98, 0.998),  # .9967, in a batch .9997 and with padding .9995, on 450 texts
    },
    "int8-static@openvino": {  # beside those of int8 in ONNX Runtime: the same integers
        "invariance.batch_cosine_min": ">= 0.99",  # .9994: attention is computed in bfloat16
        "invariance.padding": ">= 0.99",
        "invariance.equal_length": ">= 0.99",
        **_robust(0.98, 0.998),  # .9966, 1.0000 in a batch
    },
    "int8-static": {
        **INVARIANT,  # ranges are fixed
        "artifact.size_ratio": "<= 0.4",  # embedding tables are quantized too
        "embedding.cosine_mean": ">= 0.99",  # calibrated .997; ranges of the wrong texts cost more
        "embedding.cosine_p01": ">= 0.96",  # one text in a hundred may move this far
        "embedding.cosine_min": ">= 0.9",  # the worst text still points the same way
        "embedding.norm_error": "<= 0.02",  # a normalized model stays normalized
        "similarity.spearman": ">= 0.995",  # the order of pair scores holds
        "similarity.p99_error": "<= 0.04",  # scores agree to a digit and a half
        "similarity.bias": "<= 0.01",  # a shift of all scores breaks users' thresholds
        "ranking.overlap@10": ">= 0.91",  # calibrated .94, dynamic .90
        "ranking.overlap@10[*]": ">= 0.75",  # no domain pays for the mean
        "ranking.top1": ">= 0.88",  # the first hit is what users see
        "ranking.inversions": "<= 0.02",  # documents clearly apart stay in order
        **_task(0.995, 0.985),  # 1.000 and 1.004
        **_robust(0.7),  # .902 on 633 texts: texts in scripts that no calibration text is in
    },
    # In llama.cpp, whose GELU comes from a table in half precision; by the rule of docs/tolerances.md, figures in docs/gguf.md
    "fp32@llamacpp": {},
    "f16": {
        **INVARIANT,  # a text is computed by itself
        "artifact.size_ratio": "<= 0.52",  # half the bytes, or nothing was cast
        "embedding.cosine_p01": ">= 0.9998",  # 1.0000, no further away than fp32 in llama.cpp
        "embedding.cosine_min": ">= 0.9995",  # .99999
        "embedding.norm_error": "<= 0.001",  # vectors are normalized here
        "similarity.max_error": "<= 0.002",  # .0006
        "ranking.overlap@10": ">= 0.995",  # .9985
        "ranking.top1": ">= 0.99",  # .998
        **_task(0.999, 0.998),  # 1.000 both
        **_robust(0.999),  # 1.0000
    },
    "q8_0": {
        **INVARIANT,
        "artifact.size_ratio": "<= 0.3",  # .278: 32 values share a scale of 16 bits
        "embedding.cosine_mean": ">= 0.9995",  # .9996
        "embedding.cosine_p01": ">= 0.998",  # .9990
        "embedding.cosine_min": ">= 0.995",  # .998
        "embedding.norm_error": "<= 0.001",  # vectors are normalized here
        "similarity.spearman": ">= 0.995",  # .99995; few texts that hardly differ in score come to .998
        "similarity.p99_error": "<= 0.01",  # .007
        "similarity.bias": "<= 0.002",  # .0007
        "ranking.overlap@10": ">= 0.97",  # .979
        "ranking.overlap@10[*]": ">= 0.92",  # .968
        "ranking.top1": ">= 0.95",  # .969
        "ranking.inversions": "<= 0.002",  # none seen
        **_task(0.998, 0.985),  # 1.000 and .998
        **_robust(0.99),  # .9978 on 280 texts
    },
    "q4_k_m": {
        **INVARIANT,
        "artifact.size_ratio": "<= 0.27",  # .234: rows of 384 values get 5 and 8 bits instead of 4 and 6
        "embedding.cosine_mean": ">= 0.99",  # .9911; Q4_0 .966
        "embedding.cosine_p01": ">= 0.965",  # .974
        "embedding.cosine_min": ">= 0.92",  # .955
        "embedding.norm_error": "<= 0.001",  # vectors are normalized here
        "similarity.spearman": ">= 0.985",  # .9990; few texts that hardly differ in score come to .992
        "similarity.p99_error": "<= 0.05",  # .034
        "similarity.bias": "<= 0.006",  # .003
        "ranking.overlap@10": ">= 0.895",  # .908; Q4_0 .836
        "ranking.overlap@10[*]": ">= 0.82",  # .877
        "ranking.top1": ">= 0.855",  # .881
        "ranking.inversions": "<= 0.015",  # .012; Q4_0 .062
        **_task(0.992, 0.98),  # .997 and 1.006
        **_robust(0.88),  # .965 on 280 texts
    },
    "q4_0": {
        **INVARIANT,
        "artifact.size_ratio": "<= 0.24",  # .220: word embeddings in 8 bits
        "embedding.cosine_mean": ">= 0.962",  # .966
        "embedding.cosine_p01": ">= 0.89",  # .915
        "embedding.cosine_min": ">= 0.75",  # .866
        "embedding.norm_error": "<= 0.001",  # vectors are normalized here
        "similarity.spearman": ">= 0.97",  # .9975; few texts that hardly differ in score come to .976
        "similarity.p99_error": "<= 0.1",  # .075
        "similarity.bias": "<= 0.03",  # .017: state thresholds anew
        "ranking.overlap@10": ">= 0.825",  # .836: one neighbor in six changes; ask for more where that matters
        "ranking.overlap@10[*]": ">= 0.64",  # .714
        "ranking.top1": ">= 0.76",  # .799
        "ranking.inversions": "<= 0.07",  # .062
        **_task(0.985, 0.965),  # .995 and .994
        **_robust(0.5),  # .842 on 280 texts
    },
    # Quantized vectors of an fp32 model; figures are MiniLM's on core
    "+int8": {
        **_SCALAR,
        "ranking.overlap@10": ">= 0.74",  # .775: codes of a narrow dimension weigh as much as those of a wide one
        "ranking.overlap@10[*]": ">= 0.6",  # .659; wrapped around .541
        "ranking.top1": ">= 0.7",  # .738; ranges of a batch .584
        "ranking.inversions": "<= 0.12",  # .103; wrapped around .112 to .223
        "ranking.rescored_overlap@10": ">= 0.96",  # .988; ranges of 32 texts .926
        "ranking.rescored_overlap@10[*]": ">= 0.88",  # .941; ranges of 32 texts .836
        "ranking.rescored_top1": ">= 0.96",  # .994; the first hit is what users see
        **_task(0.995, 0.95),  # 1.000 and .974, without rescoring
    },
    "+uint8": {
        **_SCALAR,
        "ranking.overlap@10": ">= 0.61",  # .652: codes above 0 favor documents of many large values
        "ranking.overlap@10[*]": ">= 0.36",  # .409; wrapped around .300
        "ranking.top1": ">= 0.58",  # .624; ranges of a batch .512
        "ranking.inversions": "<= 0.21",  # .188; ranges of a batch .228
        "ranking.rescored_overlap@10": ">= 0.89",  # .919: 40 documents of a poor search miss some; of a batch .626
        "ranking.rescored_overlap@10[*]": ">= 0.58",  # .632; wrapped around .559
        "ranking.rescored_top1": ">= 0.95",  # .990; ranges of 32 texts .911
        **_task(0.995, 0.89),  # 1.000 and .928, without rescoring
    },
    "+binary": _BINARY,
    "+ubinary": _BINARY,
}

# Of the other kinds of models: kind → precision, or precision@runtime, which is laid over it → bounds
# Figures of sparse models are splade-tiny's on core (docs/sparse.md)
_WRITTEN_OF_KIND: dict[str, dict[str, dict[str, str]]] = {
    # figures: a reranker of MiniLM (benchmarks/train_kinds.py) on every fourth query of core; errors in spreads
    CROSS_ENCODER: {
        "fp32": {
            "score.max_error": "<= 0.001",  # only rounding separates runtimes
            "score.label_flips": "<= 0.01",  # a pair whose two best labels tie
            "score.threshold_flips": "<= 0.01",  # a pair at the threshold itself
            "order.tau": ">= 0.999",  # only exact ties may swap
            "order.top1": ">= 0.99",  # the first candidate is what users see
        },
        "fp16": {
            "score.max_error": "<= 0.02",
            "score.label_flips": "<= 0.01",
            "score.threshold_flips": "<= 0.01",
            "order.tau": ">= 0.99",
            "order.top1": ">= 0.98",
        },
        "bf16": {
            "score.p99_error": "<= 0.06",  # .019
            "score.bias": "<= 0.02",  # .003
            "score.label_flips": "<= 0.02",  # two labels that nearly tie
            "score.threshold_flips": "<= 0.02",  # .001
            "order.tau": ">= 0.98",  # .995
            "order.overlap@5": ">= 0.96",  # 1.000
            "order.top1": ">= 0.94",  # 1.000
            "order.inversions": "<= 0.001",  # none seen
        },
        "int8": {  # dynamic ranges, of qguard and of sentence-transformers 5.7; per tensor: one scale a matrix
            "score.p99_error": "<= 0.45",  # .324 and .376; per tensor .529
            "score.bias": "<= 0.08",  # .016 and .060; a shift of all scores breaks users' thresholds
            "score.spearman": ">= 0.987",  # .994; per tensor .979
            "score.label_flips": "<= 0.06",  # of two labels that nearly tie
            "score.threshold_flips": "<= 0.06",  # .031
            "order.tau": ">= 0.88",  # .917; per tensor .838
            "order.tau_min": ">= 0.72",  # .853; per tensor .674
            "order.overlap@5": ">= 0.87",  # .925; per tensor .906
            "order.top1": ">= 0.72",  # .875 and .750; per tensor .688
            "order.inversions": "<= 0.008",  # .002; per tensor .019
            "task.spearman_retention": ">= 0.97",  # .983, of 69 pairs
            "task.ndcg@10_retention": ">= 0.95",  # .977; per tensor .947
        },
        "int8@onnx": {  # fixed ranges
            "score.p99_error": "<= 0.2",  # .081
            "score.bias": "<= 0.03",  # .000
            "score.spearman": ">= 0.997",  # .9996
            "score.threshold_flips": "<= 0.03",  # .008
            "order.tau": ">= 0.95",  # .978
            "order.tau_min": ">= 0.85",  # .947
            "order.overlap@5": ">= 0.94",  # .988
            "order.top1": ">= 0.88",  # .969
            "order.inversions": "<= 0.002",  # none seen
            "task.spearman_retention": ">= 0.98",  # .991, of 69 pairs
            "task.ndcg@10_retention": ">= 0.95",  # 1.010; one query of 32 is worth .02
            "robustness.cosine_min": ">= 0.8",  # .875, .986 and .986 of three rerankers; one scale a matrix .281
        },
        "int8@openvino": {
            "score.p99_error": "<= 0.15",  # .057
            "score.bias": "<= 0.03",  # .008
            "score.spearman": ">= 0.997",  # .9997
            "score.threshold_flips": "<= 0.03",  # .004
            "order.tau": ">= 0.95",  # .983
            "order.tau_min": ">= 0.85",  # .958
            "order.overlap@5": ">= 0.94",  # .994
            "order.top1": ">= 0.86",  # .938
            "order.inversions": "<= 0.002",  # none seen
            "task.spearman_retention": ">= 0.98",  # 1.002
            "task.ndcg@10_retention": ">= 0.95",  # .963, of 32 queries: two that change their first candidate
        },
        "int8-weight": {
            "score.p99_error": "<= 0.2",
            "score.bias": "<= 0.03",
            "order.tau": ">= 0.95",
            "order.overlap@5": ">= 0.94",
            "order.top1": ">= 0.88",
            "order.inversions": "<= 0.002",
            "task.spearman_retention": ">= 0.98",
        },
        "int4": {
            "score.p99_error": "<= 0.65",  # .483
            "score.bias": "<= 0.2",  # .144: state another threshold, or none
            "score.spearman": ">= 0.975",  # .988
            "score.label_flips": "<= 0.1",  # of two labels that nearly tie
            "score.threshold_flips": "<= 0.1",  # .062
            "order.tau": ">= 0.84",  # .887
            "order.tau_min": ">= 0.6",  # .768
            "order.overlap@5": ">= 0.84",  # .913
            "order.top1": ">= 0.66",  # .781
            "order.inversions": "<= 0.012",  # .005
            "task.spearman_retention": ">= 0.93",  # .955, of 69 pairs
            "task.ndcg@10_retention": ">= 0.94",  # .982
        },
    },
    SPARSE: {
        "fp32": {
            "weights.kept": ">= 0.999",  # 1.000: a logit that rounding moves across 0 is a weight of 1e-6
            "weights.added": "<= 0.001",  # 0
            "weights.max_error": "<= 0.001",  # only rounding separates runtimes
            "weights.index_ratio": "<= 1.001",  # 1.000
        },
        "fp16": {
            "weights.kept": ">= 0.995",  # .9985: weights near 0 come and go
            "weights.added": "<= 0.005",  # .001
            "weights.max_error": "<= 0.02",  # .007
        },
        "bf16": {
            "weights.kept": ">= 0.975",  # .988
            "weights.added": "<= 0.02",  # .008
            "weights.p99_error": "<= 0.08",  # .034
            "weights.bias": "<= 0.02",  # .003
            "weights.index_ratio": "<= 1.02",  # .996
        },
        "int8@onnx": {
            "artifact.size_ratio": "<= 0.55",  # .507: the table of words twice in 8 bits, to be looked up and as the decoder
            "weights.kept": ">= 0.96",  # .980; one scale a matrix .939
            "weights.kept_p01": ">= 0.85",  # .909; one scale a matrix .846
            "weights.added": "<= 0.045",  # .024; one scale a matrix .053
            "weights.p99_error": "<= 0.15",  # .085; one scale a matrix .181
            "weights.bias": "<= 0.02",  # .003
            "weights.index_ratio": "<= 1.03",  # 1.004
            "robustness.cosine_min": ">= 0.95",  # .986: three times as far, as of other models
        },
        "int8-dynamic": {
            "artifact.size_ratio": "<= 0.55",  # the table of words twice in 8 bits
            "weights.kept": ">= 0.95",  # .967; one scale a matrix .939
            "weights.kept_p01": ">= 0.85",  # .877; one scale a matrix .846
            "weights.added": "<= 0.05",  # .038; one scale a matrix .053
            "weights.p99_error": "<= 0.17",  # .119; one scale a matrix .181
            "weights.bias": "<= 0.02",  # .003
            "weights.index_ratio": "<= 1.03",  # 1.003
            "ranking.overlap@10": ">= 0.95",  # .960; one scale a matrix .946
            "ranking.top1": ">= 0.94",  # .959; one scale a matrix .940
        },
        "int8-weight": {
            "weights.kept": ">= 0.96",  # .983
            "weights.added": "<= 0.04",  # .017
            "weights.p99_error": "<= 0.15",  # .062
            "weights.bias": "<= 0.02",  # .003
            "weights.index_ratio": "<= 1.03",  # 1.000
            "robustness.cosine_min": ">= 0.95",  # as int8
        },
        "int8@openvino": {
            "artifact.size_ratio": "<= 0.55",  # .507: the table of words twice in 8 bits
            "weights.kept": ">= 0.97",  # .986
            "weights.kept_p01": ">= 0.87",  # .918
            "weights.added": "<= 0.04",  # .019
            "weights.p99_error": "<= 0.12",  # .061
            "weights.bias": "<= 0.02",  # .002
            "weights.index_ratio": "<= 1.03",  # 1.006
            "robustness.cosine_min": ">= 0.95",  # as in ONNX Runtime
        },
        "bf16@openvino": {
            "artifact.size_ratio": "<= 0.97",  # .949: the table of words twice in 16 bits
            "robustness.cosine_min": ">= 0.995",  # logits near 0 are words that come and go
        },
        "int4": {
            "artifact.size_ratio": "<= 0.5",  # .435: the table of words in 8 bits, and again in 4 as the decoder
            "weights.kept": ">= 0.8",  # .855
            "weights.kept_p01": ">= 0.6",  # .707
            "weights.added": "<= 0.25",  # .170: one word in six is new
            "weights.p99_error": "<= 0.55",  # .391
            "weights.bias": "<= 0.03",  # .004
            "weights.index_ratio": "<= 1.08",  # 1.019
        },
    },
    MULTI_VECTOR: {  # figures are those of a MiniLM with a projection to 128 values on core (docs/multi-vector.md)
        "fp32": {
            "tokens.cosine_p01": ">= 0.99999",  # only rounding separates runtimes
            "tokens.cosine_min": ">= 0.9999",  # one wrong token is a bug, not noise
            "tokens.norm_error": "<= 0.001",  # an unnormalized output shows here
            "tokens.maxsim_p99_error": "<= 0.0001",  # scores agree to four digits
        },
        "fp16": {
            "tokens.cosine_p01": ">= 0.9999",  # 11 bits of precision lose no more
            "tokens.cosine_min": ">= 0.999",  # an overflow would show in one token first
            "tokens.norm_error": "<= 0.005",  # lengths survive a cast
            "tokens.maxsim_p99_error": "<= 0.002",  # scores agree to nearly three digits
        },
        "bf16": {
            "tokens.cosine_p01": ">= 0.999",  # .9998
            "tokens.cosine_min": ">= 0.997",  # .9995; no single token may fall out
            "tokens.norm_error": "<= 0.02",  # lengths survive a cast
            "tokens.maxsim_p99_error": "<= 0.01",  # .003
            "ranking.overlap@10": ">= 0.94",  # .970
        },
        "int8": {
            "tokens.cosine_mean": ">= 0.98",  # ranges of the batch .988; one scale a matrix .939
            "tokens.cosine_p01": ">= 0.94",  # .966; one scale a matrix .800
            "tokens.cosine_min": ">= 0.75",  # .876; one scale a matrix .612
            "tokens.norm_error": "<= 0.001",  # the projection and the normalization are computed in float
            "tokens.maxsim_p99_error": "<= 0.07",  # .047; one scale a matrix .113
            "ranking.overlap@10": ">= 0.68",  # .749; one scale a matrix .559
            "ranking.overlap@10[*]": ">= 0.5",  # .623; one scale a matrix .331
            "ranking.top1": ">= 0.56",  # .646
            "ranking.inversions": "<= 0.06",  # .033; one scale a matrix .116
        },
        "int8@onnx": {  # fixed ranges
            "tokens.cosine_mean": ">= 0.998",  # .9990
            "tokens.cosine_p01": ">= 0.994",  # .9974
            "tokens.cosine_min": ">= 0.95",  # .985
            "tokens.maxsim_p99_error": "<= 0.02",  # .009
            "ranking.overlap@10": ">= 0.88",  # .927; ranges of the batch .749
            "ranking.overlap@10[*]": ">= 0.75",  # no domain pays for the mean
            "ranking.top1": ">= 0.84",  # .906
            "ranking.inversions": "<= 0.005",  # none seen
            "task.ndcg@10_retention": ">= 0.97",  # .985; one scale a matrix .949
        },
        "int8@openvino": {
            "tokens.cosine_mean": ">= 0.998",  # .9994
            "tokens.cosine_p01": ">= 0.996",  # .9985
            "tokens.cosine_min": ">= 0.97",  # .995
            "tokens.maxsim_p99_error": "<= 0.02",  # .009
            "ranking.overlap@10": ">= 0.88",  # .959
            "ranking.overlap@10[*]": ">= 0.75",  # no domain pays for the mean
            "ranking.top1": ">= 0.84",  # .976
            "ranking.inversions": "<= 0.005",  # none seen
            "task.ndcg@10_retention": ">= 0.97",  # .995
        },
        "int4": {
            "tokens.cosine_mean": ">= 0.96",  # .976
            "tokens.cosine_p01": ">= 0.9",  # .935
            "tokens.cosine_min": ">= 0.75",  # .885
            "tokens.norm_error": "<= 0.001",  # the projection and the normalization are computed in float
            "tokens.maxsim_p99_error": "<= 0.075",  # .052
            "ranking.overlap@10": ">= 0.74",  # .804
            "ranking.overlap@10[*]": ">= 0.6",  # .718
            "ranking.top1": ">= 0.76",  # .850
            "ranking.inversions": "<= 0.07",  # .044; 8 bits with one scale a matrix .085
        },
        "int8-weight": {
            "tokens.cosine_mean": ">= 0.999",  # .9996: blocks of 32 values share a scale
            "tokens.cosine_p01": ">= 0.997",  # .999
            "tokens.cosine_min": ">= 0.99",  # .998
            "tokens.norm_error": "<= 0.001",  # the projection and the normalization are computed in float
            "tokens.maxsim_p99_error": "<= 0.015",  # .006
            "ranking.overlap@10": ">= 0.92",  # .948
        },
        "+int8": {
            "tokens.cosine_mean": ">= 0.999",  # .9998
            "tokens.cosine_min": ">= 0.97",  # .996; a token far outside the ranges shows here
            "tokens.norm_error": "<= 0.08",  # .035: clipping shortens
            "tokens.clipped": "<= 0.01",  # .0001
            "tokens.maxsim_p99_error": "<= 0.006",  # .0016
            "ranking.overlap@10": ">= 0.7",  # .752: codes of a narrow dimension weigh as much as those of a wide one
            "ranking.overlap@10[*]": ">= 0.5",  # no domain pays for the mean
            "ranking.rescored_overlap@10": ">= 0.96",  # .990
        },
        "+binary": {  # one bit of each of 128 values: documents that lie near to each other change places
            "tokens.cosine_mean": ">= 0.78",  # .799, of a Gaussian sqrt(2/pi) = .798
            "tokens.cosine_min": ">= 0.65",  # .711
            "ranking.overlap@10": ">= 0.36",  # .420
            "ranking.overlap@10[*]": ">= 0.1",  # .162
            "ranking.top1": ">= 0.37",  # .441
            "ranking.rescored_overlap@10": ">= 0.43",  # .487
            "ranking.rescored_overlap@10[*]": ">= 0.25",  # .331
            "ranking.rescored_top1": ">= 0.42",  # .488
            "task.spearman_retention": ">= 0.95",  # .969
            "task.ndcg@10_retention": ">= 0.73",  # .790, without rescoring
        },
    },
}
for _tables in (_WRITTEN_OF_KIND[CROSS_ENCODER], _WRITTEN_OF_KIND[MULTI_VECTOR]):
    _tables |= dict.fromkeys(("int8-dynamic", "int8-static", "int8-legacy"), _tables["int8"])
_WRITTEN_OF_KIND[MULTI_VECTOR] |= {
    "+uint8": _WRITTEN_OF_KIND[MULTI_VECTOR]["+int8"],
    "+ubinary": _WRITTEN_OF_KIND[MULTI_VECTOR]["+binary"],
}


def _parsed(tables: dict[str, dict[str, str]]) -> dict[str, dict[str, Bound]]:
    return {name: {key: Bound.parse(text, f"gate {key}") for key, text in gates.items()} for name, gates in tables.items()}


DEFAULT_BOUNDS = _parsed(_WRITTEN)
OF_KIND = {kind: _parsed(tables) for kind, tables in _WRITTEN_OF_KIND.items()}
