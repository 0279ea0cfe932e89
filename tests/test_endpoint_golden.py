"""Goldens from a trusted fp32 server: recorded, confirmed, marked wherever a golden is named, and refused if it is not fp32."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.cli import main
from qguard.config import load_config
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from tests.http_server import openai, serving
from tests.kinds import QUERIES, TEXTS
from tests.processes import gate


@pytest.fixture(scope="module")
def fp32(tiny):
    """The tiny model's fp32, from another library than the one that records goldens."""
    from tests import servers

    with servers.running(servers.application(servers.model_of(tiny("dense"), "fp32"))) as url:
        yield url


@pytest.fixture
def project(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    rows = [json.dumps({"text": t}) for t in (*TEXTS, *QUERIES, *(f"{t} {n}" for t in TEXTS for n in range(4)))]
    (tmp_path / "own.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ntiny = {json.dumps(str(tiny("dense") / "model"))}\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.qguard.latency]\nmode = "off"\n'
        '[tool.qguard.robustness]\nmode = "off"\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def update(*args):
    return main(["golden", "update", "--reason", "from our server", *args])


def recorded(project):
    return golden.read(project / "golden" / "tiny" / "own")


def test_it_is_recorded_confirmed_and_marked(project, fp32, capsys):
    assert update("--endpoint", fp32) == 0
    assert f"recording fp32 from {fp32}" in capsys.readouterr().err
    found = recorded(project)
    marked = found.manifest["endpoint"]
    assert (marked["url"], marked["protocol"], marked["says"], marked["dimensions"]) == (fp32, "openai", "tiny", 32)
    assert len(marked["fingerprint"]) == 64
    assert found.manifest["paths"] == {
        "recorded": "endpoint served", "confirmed": "Transformers with the declared pooling, on 16 texts",
    }  # fmt: skip
    words = f"recorded from: fp32 from the server {fp32} (protocol openai, model tiny, fingerprint {marked['fingerprint'][:16]}"
    for command in ("show", "check"):
        assert main(["golden", command]) == 0
        assert words in capsys.readouterr().out
    assert main(["golden", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == marked

    vectors = found.vectors
    assert update() == 0  # again, from the model's own files
    out = capsys.readouterr().out
    assert "vectors: 0 of 23 texts moved" in out
    assert "→ the model's own files" in out
    assert "endpoint" not in recorded(project).manifest
    assert np.allclose(recorded(project).vectors, vectors, atol=1e-5)


def test_what_is_judged_against_it_says_so(project, fp32, tmp_path):
    assert update("--endpoint", fp32) == 0
    code, out = gate(project, "--qguard-report=r.json", "--qguard-report=r.html", "--qguard-report=r.md", precision="fp32")
    assert code == 0, out
    (run,) = json.loads((project / "r.json").read_text())["runs"]
    assert run["golden_from"].startswith(f"fp32 from the server {fp32} (")
    assert run["golden_from"].endswith("confirmed by Transformers with the declared pooling, on 16 texts")
    for said in (out, (project / "r.html").read_text(), (project / "r.md").read_text()):
        assert "golden" in said
        assert "fp32 from the server" in " ".join(said.split())


@pytest.mark.parametrize("args", [(), ("--unconfirmed",)])
def test_a_server_of_int8_is_refused_unless_it_is_trusted(project, server, args, capsys):
    code = update("--endpoint", server("dense"), *args)
    said = capsys.readouterr().err
    if args:
        assert code == 0
        assert recorded(project).manifest["paths"]["confirmed"] == "not confirmed: the server is trusted"
    else:
        assert code == 3
        assert "endpoint 'served' is not fp32 of model 'tiny': its outputs differ from those of the model's own files" in said
        assert not (project / "golden").exists() or not list((project / "golden").rglob("manifest.json"))


def test_a_server_that_adds_prompts_too_is_refused(project, fp32, tiny, served, capsys):
    from tests import servers

    encode = servers.model_of(tiny("dense"), "fp32").embed
    (project / "own.jsonl").unlink()
    (project / "own.jsonl").mkdir()
    folder = project / "own.jsonl"
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": f"d{i}", "text": t}) for i, t in enumerate(TEXTS)))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": t}) for i, t in enumerate(QUERIES)))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t1\nq2\td2\t1\n")
    with serving(openai(lambda texts: encode([f"query: {t}" for t in texts]).outputs)) as server:
        assert update("--endpoint", server.url) == 3
    assert "does it add prompts of its own? Nothing was written" in capsys.readouterr().err
    assert update("--endpoint", fp32) == 0


def test_it_is_recorded_by_name_and_through_pytest(project, fp32, capsys):
    with (project / "pyproject.toml").open("a") as file:
        file.write(f'[tool.qguard.endpoint.trusted]\nurl = "{fp32}"\nprotocol = "tei"\n')
    assert update("--endpoint", "trusted") == 0
    assert recorded(project).manifest["endpoint"]["protocol"] == "tei"
    shutil.rmtree(project / "golden")
    from tests.processes import run_pytest

    code, out = run_pytest(project, "--golden-update", "--golden-reason=first", f"--endpoint={fp32}")
    assert code in (0, 5), out
    assert recorded(project).manifest["endpoint"]["url"] == fp32


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--endpoint", "nowhere"), "no endpoint is configured; give its URL"),
        (("--unconfirmed",), "--unconfirmed is of the server that --endpoint names"),
        (("--endpoint-protocol", "tei"), "--endpoint-protocol is of the server"),
        (("--endpoint-model", "m"), "--endpoint-model is of the server"),
        (("--endpoint", "http://u:p@h"), "holds a user or password"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(project, args, words, capsys):
    assert update(*args) == 2
    assert words in capsys.readouterr().err


def test_another_model_that_answers_in_the_end_is_refused(project, tiny, capsys):
    from tests import servers

    encode, asked = servers.model_of(tiny("dense"), "fp32").embed, []

    def outputs(texts):
        asked.append(texts)
        found = encode(texts).outputs
        return found if len(asked) < 20 else found[:, ::-1]

    with serving(openai(outputs)) as server:
        assert update("--endpoint", server.url, "--unconfirmed") == 3
    assert "another model was put behind it meanwhile; nothing was written" in capsys.readouterr().err


def test_a_candidate_is_judged_against_it(project, fp32, server):
    assert update("--endpoint", fp32) == 0
    config = load_config(project).served(server("dense"))
    found = Session(config)
    target = Target(parse_precision("served", config.own_precisions), "tiny", "own")
    values = {c.name: c.value for c in found.checks(target, "embedding") if c.slice is None}
    assert 0.99 < values["embedding.cosine_mean"] < 1
