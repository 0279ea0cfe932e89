"""The recipes of ONNX Runtime that leave activations in float: what the files hold, and what the vectors keep."""

from __future__ import annotations

import numpy as np
import pytest

from qguard.harness import Target
from qguard.precisions import parse_precision
from qguard.report.terminal import failure_text

# precision: bytes over fp32's, least cosine to the golden over a sample of core
PROMISED = {"int8-weight": (0.30, 0.998), "int4": (0.25, 0.88), "fp16@onnx": (0.52, 0.9999)}


@pytest.mark.parametrize("name", PROMISED)
def test_files_and_vectors_are_as_promised(harness, name):
    size, cosine = PROMISED[name]
    target = Target(parse_precision(name), "minilm", "core")
    checks = {c.name: c for c in harness.checks(target, "artifact")}
    assert all(c.outcome != "fail" for c in checks.values()), failure_text(name, "core", list(checks.values()), [], "")
    assert checks["artifact.quantized_ops"].value == 1
    assert checks["artifact.size_ratio"].value <= size
    golden = harness.golden("minilm", "core")
    found = harness.encoder(target.precision, "minilm").encode_ids(golden.token_ids[::12]).astype(np.float64)
    kept = golden.vectors[::12].astype(np.float64)
    assert ((found * kept).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(kept, axis=1)).min() >= cosine


def test_a_text_alone_is_the_text_in_a_batch(harness):
    """No activation is quantized, so none depends on a neighbour; kernels of other shapes differ by rounding."""
    ids = sorted(harness.golden("minilm", "core").token_ids, key=len)[400:408]
    encoder = harness.encoder(parse_precision("int8-weight"), "minilm")
    alone = encoder.encode_batches(ids, [[i] for i in range(8)])
    assert (alone * encoder.encode_batches(ids, [list(range(8))])).sum(1).min() > 0.9999
