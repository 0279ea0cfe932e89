"""A verdict on a server is bound to its measured fingerprint, and verified by asking the server again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard.cli import main
from qguard.config import load_config
from qguard.goldens import record
from qguard.judging.session import Session
from tests.http_server import openai, serving
from tests.kinds import QUERIES, TEXTS
from tests.processes import gate


class Behind:
    """What is served at the URL: it can be exchanged."""

    def __init__(self, encode):
        self.good = self.encode = encode

    def __call__(self, request):
        return openai(self.encode)(request)


@pytest.fixture(scope="module")
def behind(served):
    return Behind(lambda texts: served("dense").embed(texts).outputs)


@pytest.fixture(scope="module")
def url(behind):
    with serving(behind) as server:
        yield server.url


@pytest.fixture(scope="module")
def attested(tiny, url, tmp_path_factory):
    """A project whose server passed, and its verdict."""
    folder = tmp_path_factory.mktemp("attested")
    rows = [json.dumps({"text": t}) for t in (*TEXTS, *QUERIES, *(f"{t} {n}" for t in TEXTS for n in range(4)))]
    (folder / "own.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ntiny = {json.dumps(str(tiny("dense") / "model"))}\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.qguard.latency]\nmode = "off"\n'
        '[tool.qguard.robustness]\nmode = "off"\n[tool.qguard.service]\nmode = "off"\n'
        '[tool.qguard.gates.int8]\n"ranking.overlap@10" = ">= 0.1"\n"ranking.top1" = ">= 0.1"\n'
        '"embedding.cosine_min" = ">= 0.1"\n'
    )
    session = Session(load_config(folder))
    record(session.model("tiny"), session.suite("own"), session.config.golden_root, "tests")
    code, out = gate(folder, f"--endpoint={url}", "--qguard-attest=verdict.json", precision="served")
    assert code == 0, out
    return folder


@pytest.fixture
def case(attested, behind, tmp_path, monkeypatch):
    behind.encode = behind.good
    folder = shutil.copytree(attested, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def verify(url, *args, require="served pass"):
    given = [f"--endpoint={url}"] if url else []
    return main(["verify", "verdict.json", "--require", require, "--unsigned", *given, *args])


def resource(statement, name):
    return next(r for r in statement["predicate"]["configuration"] if r["name"] == name)


def test_the_subject_is_the_fingerprint_and_names_no_host(case, url):
    statement = json.loads((case / "verdict.json").read_text())
    (subject,) = statement["subject"]
    said = resource(statement, "endpoint/served")
    facts = said["annotations"]["qguard"]
    assert subject["name"] == "endpoint/served"
    assert subject["digest"] == said["digest"]
    assert (facts["says"], facts["dimensions"], facts["protocol"]) == ("tiny", 32, "openai")
    assert facts["date"].endswith("Z")
    assert "127.0.0.1" not in (case / "verdict.json").read_text()
    assert statement["predicate"]["result"] == "PASSED"
    tool = resource(statement, "qguard")["annotations"]["qguard"]
    assert (tool["precision"]["runtime"], tool["precision"]["recipe"]) == ("endpoint", "int8")


def test_the_server_that_passed_holds(case, url, capsys):
    assert verify(url) == 0
    assert f"holds: the server at {url} of the dense model tiny passed served on own" in capsys.readouterr().out


def test_another_model_behind_the_url_is_refused(case, url, behind, capsys):
    behind.encode = lambda texts: behind.good(texts) * np.float32(1.01)
    assert verify(url) == 1
    out = capsys.readouterr().out
    assert "REFUSED endpoint: expected the answers that were judged" in out
    assert f"judge it again: pytest --precision served --endpoint={url} --qguard-attest=verdict.json" in out
    behind.encode = lambda texts: behind.good(texts)[:, :16]
    assert verify(url) == 1
    assert "of another width" in capsys.readouterr().out


def fingerprint(statement):
    return resource(statement, "endpoint/served")["annotations"]["qguard"]["fingerprint"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s["subject"][0].update(name="endpoint/other"), "REFUSED subject: expected one server, endpoint/served"),
        (lambda s: s["subject"].append({"name": "a", "digest": {"sha256": "0" * 64}}), "REFUSED subject"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "a fingerprint with the SHA-256 of the subject"),
        (lambda s: fingerprint(s).update(width=8), "was edited"),
        (lambda s: fingerprint(s).update(noise=1.0), "was edited"),
        (lambda s: fingerprint(s).update(sketch=[]), "none that can be read"),
        (lambda s: fingerprint(s).pop("lengths"), "none that can be read"),
        (lambda s: s["predicate"]["configuration"].remove(resource(s, "endpoint/served")), "REFUSED subject"),
    ],
)
def test_a_statement_that_was_edited_is_refused(case, url, edit, words, capsys):
    statement = json.loads((case / "verdict.json").read_text())
    edit(statement)
    (case / "verdict.json").write_text(json.dumps(statement))
    assert verify(url) == 1
    assert words in capsys.readouterr().out


def test_settings_of_the_server_bind(case, url, capsys):
    with (case / "pyproject.toml").open("a") as file:
        file.write(f'[tool.qguard.endpoint.served]\nurl = "{url}"\nprompts = "server"\n')
    assert verify(None) == 1
    assert "REFUSED settings: expected endpoint = " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "require", "code", "words"),
    [
        (("--artifact", "x"), "served pass", 2, "served is of a server, so there is no --artifact"),
        ((), "int8 pass", 2, "int8 is of files; give them: --artifact PATH"),
        ((), "nothing pass", 2, "unknown precision"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(case, url, args, require, code, words, capsys):
    assert verify(url, *args, require=require) == code
    assert words in capsys.readouterr().err


def test_a_server_that_is_not_given_or_not_there_is_not_verified(case, capsys, monkeypatch):
    monkeypatch.setattr("qguard.endpoints.transport._FIRST_WAIT", 0.001)
    assert verify(None) == 2
    assert "no server is given" in capsys.readouterr().err
    with serving(lambda _: None) as server:
        pass
    assert verify(server.url) == 3
    assert "is the server running?" in capsys.readouterr().err


def test_a_model_that_is_deployed_amid_the_run_is_not_attested(case, url, behind):
    asked = []

    def encode(texts):
        asked.append(texts)
        found = behind.good(texts)
        return found if len(asked) < 30 else found[:, ::-1]  # after the fingerprint and the suite

    behind.encode = encode
    code, out = gate(case, f"--endpoint={url}", "--qguard-attest=other.json", precision="served")
    behind.encode = behind.good
    assert code == 1, out
    assert not (case / "other.json").exists() or json.loads((case / "other.json").read_text())["predicate"]["result"] == "FAILED"
