from __future__ import annotations

from pathlib import Path

import pytest

from qguard.harness import Harness

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def harness() -> Harness:
    """The project's own configuration: real MiniLM, core, committed golden, cached artifacts."""
    from qguard.config import load_config

    return Harness(load_config(ROOT))


@pytest.fixture(scope="session")
def minilm(harness):
    return harness.model("minilm")


@pytest.fixture(scope="session")
def int8(harness, minilm):
    from qguard.precisions import parse_precision

    return parse_precision("int8").build(minilm)


@pytest.fixture(scope="session")
def fp32_onnx(minilm):
    from qguard.precisions import parse_precision

    return parse_precision("fp32@onnx").build(minilm).file
