"""Judge every selected precision, model and suite. Parametrised by the plugin; see ``pytest --precision``."""

from __future__ import annotations

from typing import Any

import pytest

from qguard.latency.replay import TIMER


def test_golden_is_current(qguard_target: Any, qguard_gate: Any) -> None:
    """Schema and hashes are those of today's model and suite; the artifact's token ids equal the golden's."""
    qguard_gate.current(qguard_target)


@pytest.mark.qguard(files=True)
def test_artifact_is_quantized(qguard_target: Any, qguard_gate: Any) -> None:
    """The file computes in the precision it is named after."""
    qguard_gate.judge(qguard_target, "artifact")


def test_embeddings(qguard_target: Any, qguard_gate: Any) -> None:
    """Vectors point where fp32's point."""
    qguard_gate.judge(qguard_target, "embedding")


def test_similarity(qguard_target: Any, qguard_gate: Any) -> None:
    """Pairs score what they scored in fp32."""
    qguard_gate.judge(qguard_target, "similarity")


def test_ranking(qguard_target: Any, qguard_gate: Any) -> None:
    """Texts find the neighbours that they found in fp32."""
    qguard_gate.judge(qguard_target, "ranking")


@pytest.mark.qguard(labelled=True)
def test_task_quality(qguard_target: Any, qguard_gate: Any) -> None:
    """Labelled suites: pairs and queries are scored as well as in fp32."""
    qguard_gate.judge(qguard_target, "task")


def test_invariance(qguard_target: Any, qguard_gate: Any) -> None:
    """A text's vector is its own: it depends neither on the batch nor on padding."""
    qguard_gate.judge(qguard_target, "invariance")


@pytest.mark.qguard(generated=True)
def test_robustness(qguard_target: Any, qguard_gate: Any) -> None:
    """The same, and fp32's vectors, on text that Hypothesis makes up: any script, any length, any character."""
    qguard_gate.judge(qguard_target, "robustness")


@pytest.mark.benchmark(timer=TIMER)
def test_latency(qguard_target: Any, qguard_bucket: Any, qguard_gate: Any, benchmark: Any) -> None:
    """As fast as promised, timed against fp32 (and the deployed artifact) in this very run."""
    qguard_gate.latency(qguard_target, qguard_bucket, benchmark)
