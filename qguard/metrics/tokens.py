"""How far the vectors of tokens moved, of models that score texts by them."""

from __future__ import annotations

import numpy as np

from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.ranking import K, best_first
from qguard.metrics.statistics import Mean, Quantile
from qguard.vectors.multi_vector import of_tokens
from qguard.vectors.quantized import FLOAT, SCALAR

_BYTES = 4  # of a float32


def parts(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    """Rows and metrics of the tokens, of the texts and of the searches."""
    return [(_tokens(c), OF_TOKENS), (_texts(c), OF_TEXTS), (_searches(c), OF_SEARCHES)]


def _tokens(c: Comparison) -> Items:
    """Per token of fp32: its cosine to fp32 in [-1, 1], the relative error of its length (>= 0), and of quantized vectors the
    share of clipped values in [0, 1].
    """
    cosine, longer = of_tokens(c.golden, c.candidate)
    columns = [cosine, np.abs(longer - 1)]
    if c.vectors is not None:
        # a text with another number of tokens has no values to tell of
        columns.append(c.vectors.clipped() if len(c.vectors.clipped()) == len(cosine) else np.zeros(len(cosine)))
    text = np.repeat(np.arange(len(c.golden)), c.golden.counts)

    def label(i: int) -> str:
        of = int(text[i])
        return f"cosine {cosine[i]:.4f}  token {i - c.golden.offsets[of]} of {c.suite.texts[of][:80]!r}"

    return Items(np.stack(columns, axis=1), tuple(c.suite.slices[t] for t in text), label, "tokens")


def _texts(c: Comparison) -> Items:
    """Per text: tokens that fp32 has and the candidate has not, those that it has beyond fp32's, and the bytes of its vectors."""
    was, now = c.golden.counts, c.candidate.counts
    ratio = 1.0 if c.vectors is None else c.vectors.size_ratio
    rows = np.stack([np.maximum(was - now, 0), np.maximum(now - was, 0), now * c.candidate.shape[1] * _BYTES * ratio], axis=1)

    def label(i: int) -> str:
        return f"{was[i]} → {now[i]} tokens  {c.suite.texts[i][:80]!r}"

    return Items(rows.astype(np.float64), c.suite.slices, label)


def _searches(c: Comparison) -> Items:
    """Per query and each of its nearest documents in fp32: both MaxSims, over the query's number of tokens."""
    documents, scores = c.searched
    texts = np.arange(len(c.suite.texts)) if c.searchers is None else c.searchers
    near = best_first(scores[0], min(K, len(documents) - 1))
    # of codes the scores have another scale; rescoring is on that of fp32
    both = [np.take_along_axis(s, near, 1) for s in (scores[0], scores[1 if c.vectors is None else 2])]
    rows = np.stack([c.relative(s, texts).ravel() for s in both], axis=1)
    of = np.repeat(texts, near.shape[1])

    def label(i: int) -> str:
        found = c.suite.texts[documents[near.ravel()[i]]][:45]
        return f"{rows[i, 0]:.3f} → {rows[i, 1]:.3f}  {c.suite.texts[of[i]][:45]!r} | {found!r}"

    return Items(rows, tuple(c.suite.slices[i] for i in of), label, "pairs")


def _error(r: Rows) -> Rows:
    return np.abs(r[..., 1] - r[..., 0])


_COSINE, _COUNT = "cosine in [-1, 1]", "tokens, 0 or more"
OF_TOKENS = (
    Metric(
        "tokens.cosine_mean", Mean(0), higher_is_better=True, unit=_COSINE, source="qguard",
        description="mean cosine of a token's vector to its fp32 vector",
    ),
    Metric(
        "tokens.cosine_p01", Quantile(0, 0.01), higher_is_better=True, unit=_COSINE, source="numpy.quantile, linear",
        description="the cosine to fp32 that 1 % of the tokens fall below",
    ),
    Metric(
        "tokens.cosine_min", Quantile(0, 0), higher_is_better=True, unit=_COSINE, source="qguard",
        description="the lowest cosine of any token to its fp32 vector", worst=lambda r: 1 - r[:, 0],
    ),
    Metric(
        "tokens.norm_error", Quantile(1, 1), higher_is_better=False, unit="relative error, 0 or more", source="qguard",
        description="the largest relative change of the length of a token's vector", vectors=(FLOAT, *SCALAR),
    ),
    Metric(
        "tokens.clipped", Mean(2, best=0.0), higher_is_better=False, unit="share in [0, 1]", source="qguard",
        description="share of the values of stored vectors that lie outside their range", vectors=SCALAR,
    ),
)  # fmt: skip
OF_TEXTS = (
    Metric(
        "tokens.lost", Quantile(0, 1), higher_is_better=False, unit=_COUNT, source="qguard",
        description="the most tokens of a text that count in fp32 and no longer do", worst=lambda r: r[:, 0],
    ),
    Metric(
        "tokens.gained", Quantile(1, 1), higher_is_better=False, unit=_COUNT, source="qguard",
        description="the most tokens of a text that count and do not in fp32", worst=lambda r: r[:, 1],
    ),
    Metric(
        "tokens.text_bytes", Mean(2), higher_is_better=False, unit="bytes", source="qguard",
        description="bytes of a text's stored vectors, mean: an index needs these for each of its documents",
    ),
)  # fmt: skip
OF_SEARCHES = (
    Metric(
        "tokens.maxsim_p99_error", Quantile(_error, 0.99), higher_is_better=False, source="numpy.quantile, linear",
        unit="difference over the query's tokens, 0 or more", worst=_error, vectors=(FLOAT, *SCALAR),
        description=f"the change that 1 % of the MaxSims of queries and their {K} nearest fp32 documents exceed",
    ),
)  # fmt: skip
METRICS = (*OF_TOKENS, *OF_TEXTS, *OF_SEARCHES)
