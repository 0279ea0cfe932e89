"""Faults of speed: the same vectors, later. Real work in the graph, not a sleep."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.faults.surgery import ArtifactGraph
from qguard.onnx.edit import copy, remove

_PROBE = 1.0  # the share at which the work of one node is measured: far above the noise


def bucket_of(session: Any, precision: Any) -> Any:
    """The shortest bucket whose regression is gated.

    Raises:
        NotApplicable: where there is none.
    """
    from qguard.latency.check import GATED_TOKENS, Bucket

    latency = session.config.latency
    if latency.mode != "gate":
        raise NotApplicable(f'latency is not gated in this project: [tool.qguard.latency] mode = "{latency.mode}"')
    found = sorted(Bucket(t, b) for t in latency.tokens for b in latency.batches if t >= GATED_TOKENS)
    if not found:
        raise NotApplicable(f"no bucket of {GATED_TOKENS} tokens or more is configured; shorter ones are reported, not gated")
    return found[0]


def slower(site: FaultSite, share: float) -> Candidate:
    """Put work into the graph whose result is multiplied by zero.

    Args:
        site: Where.
        share: Of the sound artifact's time that is added.
    """
    from qguard.judging.compare import time_ratio
    from qguard.latency.arms import ArmSpec
    from qguard.latency.check import spec_of

    bucket = bucket_of(site.session, site.precision)
    threads = site.session.config.latency.threads
    batch = bucket.fill(site.session.golden(site.model, site.suites[0]).token_ids)
    sound = spec_of(site.artifact, site.precision, threads)
    file, original = site.file, site.work / "sound.onnx"
    copy(file, original)
    slow = ArmSpec(sound.runtime, str(file), sound.precision, threads)
    count = 100
    for _ in range(2):  # the second time near the probe itself
        _busy(original, file, count)
        added = 1 / time_ratio(sound, slow, batch, bucket.tokens) - 1
        count = max(1, min(10**5, round(count * _PROBE / max(added, 0.01))))
    _busy(original, file, max(1, round(count * share / _PROBE)))
    remove(original)
    return Candidate(site.sealed().artifact, deployed=site.artifact.runs)


def _busy(source: Path, target: Path, count: int) -> None:
    """The graph of ``source`` with ``count`` elementwise operators beside its output."""
    from onnx import helper

    copy(source, target)
    graph = ArtifactGraph(target)
    out = graph.output()
    inner = graph.before_output(out)
    names = [inner, *(f"fault/work{i}" for i in range(count))]
    zero = graph.put("fault/zero", np.float32(0))
    graph.append([
        *(helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)),
        helper.make_node("Mul", [names[-1], zero], ["fault/nothing"]),
        helper.make_node("Add", [inner, "fault/nothing"], [out]),
    ])  # fmt: skip
    graph.write()
