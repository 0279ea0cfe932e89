"""How far a cross-encoder's scores moved, and what that does to labels, thresholds and the order of a query's candidates.

Errors are of logits: of activated scores, those near 0 and 1 hide them. Over the spread of fp32's logits (their standard
deviation on the suite) they mean the same for a model whose logits lie in [-11, 11] and for one whose logits lie in [-1, 1], so
gates bound these; the same in logits is stated beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.statistics import Absolute, Mean, Quantile, Ratio, Share, Spearman
from qguard.suites.paired import Group, TextPair
from qguard.vectors.scores import Scores

DEPTHS = (5, 10)  # candidates that are looked at: of 20, and of 100
MARGIN = 0.25  # of the spread: fp32's scores that lie nearer may change places without anybody's notice
_SHOWN = 45

# columns of a pair: error in spreads, in logits, signed in spreads, in logits, after activation; label kept; decision kept; both
# first logits
_ERROR, _LOGITS, _MOVED, _SIGNED, _ACTIVATED, _FLIPPED, _CROSSED, _OLD, _NEW = range(9)


def similarity_of(c: Comparison) -> Scores:
    """What the comparison of a cross-encoder is measured with."""
    assert isinstance(c.similarity, Scores)
    return c.similarity


def parts(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    """The rows of all pairs, and the metrics that exist for so many labels and a threshold or none."""
    several = c.golden.shape[1] > 1
    wanted = [m for m in METRICS if m.name not in (_FLIPS, _THRESHOLD, _ORDER)]
    wanted += [m for m in METRICS if m.name == (_FLIPS if several else _ORDER)]
    wanted += [m for m in METRICS if m.name == _THRESHOLD and similarity_of(c).threshold is not None and not several]
    return [(items(c), tuple(m for m in METRICS if m in wanted))]


def items(c: Comparison) -> Items:
    """Per pair what its score lost; of several labels the largest error of any."""
    found, old, new = similarity_of(c), c.golden, c.candidate
    moved = new - old
    activated = found.activated(new), found.activated(old)
    worst = np.abs(moved).argmax(1)
    signed = moved[np.arange(len(moved)), worst]
    limit = found.threshold if found.threshold is not None else 0.0
    crossed = (activated[0][:, 0] >= limit) != (activated[1][:, 0] >= limit)
    columns = [
        np.abs(signed) / found.spread, np.abs(signed), signed / found.spread, signed, np.abs(activated[0] - activated[1]).max(1),
        old.argmax(1) != new.argmax(1), crossed, old[:, 0], new[:, 0],
    ]  # fmt: skip
    rows = np.stack(columns, axis=1).astype(np.float64)

    def label(i: int) -> str:
        pair, at = TextPair.of(c.suite.texts[i]), worst[i]
        which = f" of label {at}" if old.shape[1] > 1 else ""
        return f"logit{which} {old[i, at]:.3f} → {new[i, at]:.3f}  {pair.first[:_SHOWN]!r} | {pair.second[:_SHOWN]!r}"

    return Items(rows, c.suite.slices, label, "pairs")


_FLIPS, _THRESHOLD, _ORDER = "score.label_flips", "score.threshold_flips", "score.spearman"
_SPREADS, _SHARE = "spreads of fp32's logits, 0 or more", "share in [0, 1]"
_IN_LOGITS, _AFTER = "difference of logits, 0 or more", "difference of activated scores, 0 or more"


def _errors(suffix: str, column: int, signed: int, unit: str, **more: Any) -> tuple[Metric, ...]:
    def metric(name: str, reduce: Any, what: str, source: str = "qguard", **others: Any) -> Metric:
        return Metric(
            f"score.{name}{suffix}", reduce, higher_is_better=False, unit=unit, source=source, description=what, **others
        )  # fmt: skip

    return (
        metric("max_error", Quantile(column, 1), "the largest change of a pair's logit", **more),
        metric(
            "p99_error", Quantile(column, 0.99), "the change of a logit that 1 % of the pairs exceed", "numpy.quantile, linear"
        ),
        metric("mean_error", Mean(column), "the mean change of a pair's logit, whatever its sign"),
        metric("bias", Absolute(Mean(signed)), "size of the mean change of a pair's logit: a shift of all scores"),
    )


METRICS = (
    *_errors("", _ERROR, _MOVED, _SPREADS, worst=lambda r: r[:, _ERROR]),
    *_errors("_logits", _LOGITS, _SIGNED, _IN_LOGITS),
    Metric(
        "score.max_error_activated", Quantile(_ACTIVATED, 1), higher_is_better=False, unit=_AFTER, source="qguard",
        description="the largest change of a pair's score after the model's activation",
    ),
    Metric(
        "score.p99_error_activated", Quantile(_ACTIVATED, 0.99), higher_is_better=False, unit=_AFTER,
        source="numpy.quantile, linear", description="the change of a score after activation that 1 % of the pairs exceed",
    ),
    Metric(
        _ORDER, Spearman(_OLD, _NEW), higher_is_better=True, unit="correlation in [-1, 1]", min_items=3,
        source="Spearman 1904, mean ranks for ties, as scipy.stats.spearmanr",
        description="rank correlation of the logits of all pairs with those of fp32",
    ),
    Metric(
        _FLIPS, Mean(_FLIPPED, best=0.0), higher_is_better=False, unit=_SHARE, source="qguard",
        description="share of the pairs whose greatest logit is that of another label",
    ),
    Metric(
        _THRESHOLD, Mean(_CROSSED, best=0.0), higher_is_better=False, unit=_SHARE, source="qguard",
        description="share of the pairs that the project's threshold decides otherwise",
    ),
)  # fmt: skip


def order_parts(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    """The rows of all queries with candidates; none for a model of several labels."""
    groups = ordered(c.suite.groups)
    return [(_orders(c, groups), ORDER)] if groups and c.golden.shape[1] == 1 else []


def ordered(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The groups that have an order: of two candidates or more."""
    return tuple(g for g in groups if len(g.members) > 1)


def _orders(c: Comparison, groups: tuple[Group, ...]) -> Items:
    """Per query: tau-b, first place kept, flipped and clear pairs, and the overlap at each of :data:`DEPTHS`."""
    spread, rows, first = similarity_of(c).spread, [], []
    for group in groups:
        members = list(group.members)
        old, new = c.golden[members, 0], c.candidate[members, 0]
        before, after = ranked(old), ranked(new)
        clear = old[:, None] - old[None, :] > MARGIN * spread
        flipped = (clear & (new[:, None] < new[None, :])).sum()
        overlaps = [len({*before[:k]} & {*after[:k]}) / min(k, len(members)) for k in DEPTHS]
        rows.append([kendall(old, new), before[0] == after[0], flipped, clear.sum(), *overlaps])
        first.append((members[before[0]], members[after[0]]))
    found = np.asarray(rows, np.float64)

    def label(i: int) -> str:
        was, now = (TextPair.of(c.suite.texts[k]).second[:40] for k in first[i])
        moved = f"first stays {was!r}" if first[i][0] == first[i][1] else f"first was {was!r}, is {now!r}"
        return f"tau {found[i, 0]:.2f}  {groups[i].query[:50]!r}: {moved}"

    return Items(found, tuple(g.slice for g in groups), label, "queries")


def ranked(scores: Rows) -> list[int]:
    """Places of scores (n,), the greatest first; ties by place, as of Python's stable sort, which ``CrossEncoder.rank`` uses."""
    found: list[int] = np.argsort(-np.asarray(scores), kind="stable").tolist()
    return found


def kendall(a: Rows, b: Rows) -> float:
    """Kendall's tau-b of two values (n,), equal to ``scipy.stats.kendalltau``; 1 where both are constant, 0 where one is."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v[None, :])[upper] for v in (a, b))
    norm = np.sqrt((x != 0).sum() * (y != 0).sum())
    if not norm:
        return float(not x.any() and not y.any())
    return float((x * y).sum() / norm)


ORDER = (
    Metric(
        "order.tau", Mean(0), higher_is_better=True, unit="correlation in [-1, 1]", min_items=1,
        source="Kendall 1945 (tau-b), as scipy.stats.kendalltau",
        description="mean rank correlation of a query's candidates with their order in fp32", worst=lambda r: 1 - r[:, 0],
    ),
    Metric(
        "order.tau_min", Quantile(0, 0), higher_is_better=True, unit="correlation in [-1, 1]", source="qguard",
        description="the lowest rank correlation of any query's candidates with their order in fp32",
    ),
    *(
        Metric(
            f"order.overlap@{k}", Mean(4 + i, best=1.0), higher_is_better=True, unit=_SHARE, source="qguard",
            description=f"share of a query's first {k} candidates in fp32 that are still among the first {k}",
        )
        for i, k in enumerate(DEPTHS)
    ),
    Metric(
        "order.top1", Share(1), higher_is_better=True, unit=_SHARE, source="qguard",
        description="share of the queries whose first candidate is still that of fp32",
    ),
    Metric(
        "order.inversions", Ratio(Mean(2), Mean(3), empty=0.0), higher_is_better=False, unit=_SHARE, source="qguard",
        description=f"share of two candidates of a query that lie over {MARGIN} spreads apart in fp32 whose order flips",
    ),
)  # fmt: skip
