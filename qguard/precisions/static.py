"""Static int8 in ONNX Runtime: activation ranges from calibration texts, by NNCF with SmoothQuant and bias correction."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qguard.errors import UsageProblem
from qguard.models import Model
from qguard.precisions.calibration import Sample
from qguard.precisions.export import export_plain, onnx_file
from qguard.progress import progress

PASSES = 3  # SmoothQuant, ranges, biases: each reads all texts once


def int8(model: Model, folder: Path, sample: Sample) -> None:
    """Quantize weights per channel and activations per tensor; what NNCF writes are QuantizeLinear and DequantizeLinear.

    Raises:
        UsageProblem: when NNCF is not installed.
    """
    nncf = _import_nncf()
    import onnx

    target = onnx_file(model, folder)
    export_plain(model.root, target)
    with progress(f"calibrating on {len(sample.texts)} texts", PASSES * len(sample.texts)) as advance, _silent():
        quantized = quantize(nncf, onnx.load(str(target)), list(_feeds(model, sample)), advance)
    onnx.save(quantized, str(target))


def quantize(nncf: Any, graph: Any, feeds: list[dict[str, Any]], advance: Any) -> Any:
    """NNCF's post-training quantization of a transformer."""

    def read(feed: dict[str, Any]) -> dict[str, Any]:
        advance()
        return feed

    return nncf.quantize(
        graph, nncf.Dataset(feeds, read), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds), fast_bias_correction=True
    )


def _feeds(model: Model, sample: Sample) -> Iterator[dict[str, Any]]:
    """One text each, unpadded: a padding token's activations are never used, and must not widen a range."""
    import numpy as np

    from qguard.encoders.tokenizer import TextTokenizer

    for row in TextTokenizer.open(model.root, model.pipeline)(sample.texts, sample.roles):
        ids = np.asarray([row], np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _import_nncf() -> Any:
    if find_spec("nncf") is None:
        raise UsageProblem("int8-static is calibrated by NNCF, which is not installed; pip install 'qguard[static]'")
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # read at import: no usage statistics are sent from a gate
    kind = logging.getLoggerClass()
    try:
        import nncf
    finally:
        logging.setLoggerClass(kind)
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    return nncf


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """NNCF writes its log and its own bars to stdout, where a report may go."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
