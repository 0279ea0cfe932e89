"""From a harness to the values of generated texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.encoders.tokenizer import TextTokenizer
from qguard.gates import Gate
from qguard.gates.check import Check, judge
from qguard.metrics import Measured
from qguard.robustness.features import describe
from qguard.robustness.kept import MOST, keep, kept_file, read_kept
from qguard.robustness.metrics import COSINE, NAMES, reduced
from qguard.robustness.probe import Probe
from qguard.robustness.search import Found, search

if TYPE_CHECKING:
    from qguard.harness import Harness, Target
    from qguard.precisions import Precision


def gated(harness: Harness, precision: Precision) -> list[Gate]:
    """The bounds that generated texts must hold; none where they are only reported."""
    if harness.config.robustness.mode != "gate":
        return []
    return [g for g in harness.gates(precision) if g.metric in NAMES]


def judge_robustness(harness: Harness, target: Target) -> list[Check]:
    """The checks of a target's precision and model: all suites share one search."""
    made = harness._once(
        ("robustness", target.precision, target.model), lambda: measure_robustness(harness, target.precision, target.model)
    )
    return judge(made, gated(harness, target.precision), target.suite)


def probe_of(harness: Harness, precision: Precision, model: str) -> Probe:
    """The candidate beside fp32 of its runtime, or of another that computes fp32; see :meth:`Harness.fp32_runtime`.

    Raises:
        QguardError: when either cannot be made or run.
    """
    base, candidate = harness.model(model), harness.encoder(precision, model)
    runtime = harness.fp32_runtime(precision, model)
    pipeline = base.pipeline
    tokenizer = TextTokenizer.open(base.root, pipeline)
    return Probe(candidate, harness.fp32_encoder(model, runtime), tokenizer, pipeline.normalize, pipeline.max_seq_length)


def measure_robustness(harness: Harness, precision: Precision, model: str) -> list[Measured]:
    """Search, keep the worst texts, and reduce what was tried to one value a property.

    Raises:
        QguardError: when the encoder fails on a text, or nothing could be tried.
    """
    probe = probe_of(harness, precision, model)
    settings, base = harness.config.robustness, harness.model(model)
    file = kept_file(base.weight_sha256, base.tokenizer_sha256, f"{precision.name}@{precision.runtime}")
    known = list(dict.fromkeys([*read_kept(file), *_replayed(harness)]))
    gates = gated(harness, precision)
    found = search(probe, gates, settings.examples, settings.seed, known)
    _keep_worst(file, found)
    values = reduced(found.tried, lambda text: describe(text, probe.tokenizer), found.broken)
    failed = {v.name for v in values for g in gates if g.applies(v) and not g.bound.holds(v.value)}
    return [replace(v, worst=(*v.worst, _told(found))) if v.name in failed else v for v in values]


def _replayed(harness: Harness) -> list[str]:
    source = harness.config.robustness.replay
    if source is None:
        return []
    from qguard.suites.reader import read_suite

    return list(read_suite("replay", harness.config.located("robustness.replay", source)).texts)


def _keep_worst(file: Path, found: Found) -> None:
    worst = sorted(found.tried, key=lambda t: t.values[COSINE])
    first = [found.broken] if found.broken is not None else []
    keep(file, [*first, *(t.text for t in worst[: 2 * MOST])])


def _told(found: Found) -> str:
    how = "known from an earlier run, and tried first" if found.replayed else f"shrunk by Hypothesis, seed {found.seed}"
    company = "" if len(found.batch) == 1 else f", in the batch {[t[:60] for t in found.batch]!r}"
    return f"the first of these is {how}{company}; it is tried first in the next run"
