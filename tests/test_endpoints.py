"""Servers as targets of the gate: what the client sends, what it makes of answers, and how a verdict on a server reads."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from qguard.config import load_config
from qguard.endpoints.client import Client
from qguard.endpoints.settings import Endpoint
from qguard.endpoints.transport import address
from qguard.errors import EndpointProblem, UsageProblem
from qguard.gates import parse_gate
from qguard.gates.check import judge
from qguard.judging.compare import compare, table
from qguard.judging.session import Session, Target
from qguard.metrics import Measured
from qguard.precisions import parse_precision
from tests.http_server import Response, openai, serving
from tests.processes import gate, run_pytest

SECRET = "sk-1234567890"


def lengths(texts):
    """Two numbers that tell which text it was."""
    return [[float(len(t)), 1.0] for t in texts]


def client(url, **settings):
    given = {"name": "served", "url": url, "retries": 0, **settings}
    return Client(Endpoint(**given), model="m", environ={"KEY": f"Bearer {SECRET}"})


def broken(answer):
    """What the client says of an answer to two texts."""
    found = answer if isinstance(answer, Response) else Response(answer)
    with serving(lambda _: found) as server, client(server.url) as c, pytest.raises(EndpointProblem) as e:
        c.embed(["ab", "c"])
    assert "endpoint 'served', POST " + server.url + "/v1/embeddings: 2 texts, first 'ab': " in str(e.value)
    return str(e.value).partition("first 'ab': ")[2]


def row(index, vector=(1.0, 2.0)):
    return {"index": index, "embedding": list(vector)}


@pytest.mark.parametrize("heeds", [True, False])
def test_vectors_come_in_the_order_of_the_texts(heeds):
    texts = ["x" * n for n in (3, 1, 4, 1, 5, 9, 2, 6)]
    with serving(openai(lengths, heeds)) as server, client(server.url, batch=3, concurrency=2) as c:
        found = c.embed(texts)
        answer = c.ask(texts[:2])
    assert found.dtype == np.float32
    assert found[:, 0].tolist() == [3, 1, 4, 1, 5, 9, 2, 6]
    sizes = [len(r.value["input"]) for r in server.requests]
    assert sorted(sizes) == [2, 2, 3, 3]
    assert {r.value["encoding_format"] for r in server.requests} == {"base64"}
    assert {r.value["model"] for r in server.requests} == {"m"}
    said = answer.said
    assert (said.encoding, said.model, said.tokens, said.indices) == ("base64" if heeds else "float", "m", 2, (1, 0))
    assert said.dim == 2
    assert (answer.reply.status, answer.reply.headers["content-type"]) == (200, "application/json")
    assert answer.reply.seconds > 0


def test_a_server_that_does_not_know_base64_is_asked_without_it():
    def answers(request):
        if "encoding_format" in request.value:
            return Response({"error": "unknown member encoding_format"}, 400)
        return openai(lengths)(request)

    with serving(answers) as server, client(server.url, batch=1, concurrency=1) as c:
        assert c.embed(["abc", "d"])[:, 0].tolist() == [3, 1]
    assert ["encoding_format" in r.value for r in server.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"data": [row(0)]}, "expected 2 embeddings for 2 texts, found 1"),
        ({"data": [row(0), row(1), row(2)]}, "expected 2 embeddings for 2 texts, found 3"),
        ({"data": [row(0), row(0)]}, "index 0 of embeddings stands there twice, and 1 is missing"),
        ({"data": [row(0), row(2)]}, "item 1 of embeddings: expected an index of 0 to 1, found 2"),
        ({"data": [row(0), {"embedding": [1.0, 2.0]}]}, "item 1 of embeddings: expected its 'index', a whole number"),
        ({"data": [row(True), row(1)]}, "item 0 of embeddings: expected its 'index', a whole number"),
        ({"data": [row(0), row(1, [1.0])]}, "vectors of different lengths: vector 0 has 2 values, vector 1 has 1"),
        ({"data": [row(0, []), row(1, [])]}, "vector 0 has no values"),
        ({"data": [row(0), row(1, [1.0, None])]}, "vector 1: expected numbers, found None"),
        ({"data": [row(0), row(1, [1.0, "2"])]}, "vector 1: expected numbers, found '2'"),
        ({"data": [row(0), row(1, [1.0, True])]}, "vector 1: expected numbers, found True"),
        ({"data": [row(0), row(1, [1.0, 1e300])]}, "vector 1 has values that are not finite or do not fit float32"),
        ({"data": [row(0), row(1, [1.0, float("nan")])]}, "expected JSON, found"),
        ({"data": [{"index": 0, "embedding": "AAA"}, row(1)]}, "vector 0: expected base64, found 'AAA'"),
        ({"data": [{"index": 0, "embedding": "AAAA"}, row(1)]}, "vector 0: expected float32 in base64, found 3 bytes"),
        ({"data": [{"index": 0, "embedding": 1}, row(1)]}, "'embedding' of item 0 of 'data': expected a list or a string"),
        ({"embeddings": [[1.0], [2.0]]}, "the answer: expected 'data', found a JSON object with 'embeddings'"),
        ([[1.0], [2.0]], "the answer: expected a JSON object with 'data', found a list of 2"),
        (None, "the answer: expected a JSON object with 'data', found None"),
        (Response(b"<html>It works!</html>"), "expected JSON, found a page ('<html>It works!</html>'); is the URL right?"),
        (Response(b""), "expected JSON, found an empty answer"),
        (Response(b'{"data": [' + b"[" * 100_000), "expected JSON, found"),
        (Response(b"\xff\xfe"), "expected JSON, found"),
        (Response({"error": "no such model"}, 404), "found 404 ('{\"error\": \"no such model\"}'); does the server speak"),
        (Response(b"", 500), "expected status 200, found 500 (an empty answer)"),
        (Response(b"", 307, {"location": "http://other/"}), "found 307, a redirect to 'http://other/'; it is not followed"),
        (Response({"error": "who?"}, 401), "the request had no header of the configuration"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer_is_said_in_words(answer, words):
    assert words in broken(answer)


def test_an_answer_is_bounded_in_size_and_time(monkeypatch):
    monkeypatch.setattr("qguard.endpoints.client.LIMIT", 1000)
    monkeypatch.setattr("qguard.endpoints.client.LIMIT_OF_TEXT", 0)
    wide, wait = openai(lambda texts: np.ones((len(texts), 4096))), threading.Event()
    words = "the answer has more than"
    with serving(wide) as server, client(server.url) as c, pytest.raises(EndpointProblem, match=words):
        c.embed(["a"])
    words = r"no whole answer within 0\.2 seconds; is the server busy"
    with serving(lambda _: wait.wait(5) and None) as server, client(server.url, timeout=0.2) as c:
        with pytest.raises(EndpointProblem, match=words):
            c.embed(["a"])
        wait.set()


@pytest.mark.parametrize("answer", [None, Response({}, 503, {"retry-after": "0"}), Response({}, 429, {"retry-after": "0"})])
def test_a_request_that_the_server_did_not_take_is_sent_again(answer, monkeypatch):
    monkeypatch.setattr("qguard.endpoints.transport._FIRST_WAIT", 0.001)
    left = [answer, answer]

    def answers(request):
        return left.pop() if left else openai(lengths)(request)

    with serving(answers) as server, client(server.url, retries=2) as c:
        assert c.embed(["abc"])[0, 0] == 3
        assert len(server.requests) == 3
        left += [answer] * 3
        with pytest.raises(EndpointProblem, match="asked 3 times"):
            c.embed(["abc"])


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_a_refusal_is_not_asked_again(status):
    with serving(lambda _: Response({}, status)) as server, client(server.url, retries=5) as c:
        with pytest.raises(EndpointProblem) as e:
            c.ask(["a"])
        assert e.value.status == status
        assert len(server.requests) == 1


def test_nobody_waits_for_longer_than_a_bound():
    with serving(lambda _: Response({}, 503, {"retry-after": "3600"})) as server, client(server.url, retries=5) as c:
        with pytest.raises(EndpointProblem, match="the server asks to wait for 3600 seconds; at most 30 are waited"):
            c.embed(["a"])
        assert len(server.requests) == 1


def test_a_server_that_is_gone_is_named(monkeypatch):
    monkeypatch.setattr("qguard.endpoints.transport._FIRST_WAIT", 0.001)
    with serving(openai(lengths)) as server:
        pass
    with client(server.url, retries=1) as c, pytest.raises(EndpointProblem, match=r"asked 2 times; is the server running\?"):
        c.embed(["a"])


def test_one_batch_that_fails_leaves_no_partial_answer():
    def answers(request):
        return openai(lengths)(request) if len(request.value["input"][0]) != 2 else Response({}, 500)

    with serving(answers) as server, client(server.url, batch=1) as c, pytest.raises(EndpointProblem, match="found 500"):
        c.embed(["a", "bb", "ccc"])


def test_another_width_is_another_model():
    def answers(request):
        return openai(lambda texts: np.ones((len(texts), len(texts[0]))))(request)

    with serving(answers) as server, client(server.url, batch=1, concurrency=1) as c:
        c.embed(["abc"])
        with pytest.raises(EndpointProblem, match="earlier answers had 3 values a text, this one has 2; is it another model"):
            c.embed(["de"])


def test_one_client_serves_several_threads():
    with serving(openai(lengths)) as server, client(server.url, batch=4) as c:
        found = {}

        def ask(n):
            found[n] = c.embed(["x" * (n + k) for k in range(9)])[:, 0].tolist()

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 9)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert found == {n: [float(n + k) for k in range(9)] for n in range(1, 9)}


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h", "http://h/v1/embeddings"),
        ("http://h/", "http://h/v1/embeddings"),
        ("http://h:8080/v1", "http://h:8080/v1/embeddings"),
        ("http://h/api/v1/", "http://h/api/v1/embeddings"),
        ("http://h/v1/embeddings", "http://h/v1/embeddings"),
        ("http://h/openai/deployments/e?api-version=1", "http://h/openai/deployments/e/v1/embeddings?api-version=1"),
    ],
)
def test_the_path_of_the_protocol_is_added_unless_the_url_has_it(url, path):
    assert address(url, "/v1/embeddings") == path


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://user:{SECRET}@h", "holds a user or password"),
        (f"http://{SECRET}@h", "holds a user or password"),
        ("localhost:8080", "expected http:// or https:// and a host"),
        ("file:///etc/passwd", "expected http:// or https:// and a host"),
        ("http://", "expected http:// or https:// and a host"),
        ("http://h:99999", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://h/ v1", "spaces or control characters"),
        ("http://h/#top", "has a fragment"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url, words):
    with pytest.raises(UsageProblem, match=words) as e:
        Endpoint("served", url)
    assert SECRET not in str(e.value)


def test_a_header_is_read_from_the_environment_and_never_shown():
    def answers(request):  # a proxy that says too much
        return Response({"error": f"bad key {request.headers['authorization']} or {SECRET}"}, 401)

    headers = (("Authorization", "KEY"),)
    with serving(answers) as server, client(server.url, headers=headers) as c, pytest.raises(EndpointProblem) as e:
        c.embed(["a"])
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert "the request had Authorization of the configuration" in str(e.value)
    for shown in (str(e.value), repr(e.value), repr(c), repr(c.endpoint), json.dumps(c.endpoint.to_json()), repr(c._secrets)):
        assert SECRET not in shown
    with pytest.raises(UsageProblem, match="header Authorization is read from the environment variable KEY, which is not set"):
        Client(c.endpoint, environ={})
    with pytest.raises(UsageProblem, match="holds characters that no header can have") as e:
        Client(c.endpoint, environ={"KEY": f"{SECRET}\r\nHost: evil"})
    assert SECRET not in str(e.value)
    with pytest.raises(UsageProblem, match="which is not shown because it may be the secret itself") as e:
        Endpoint("served", server.url, headers=(("Authorization", f"Bearer {SECRET}"),))
    assert SECRET not in str(e.value)
    found = {"data": [{"index": 0, "embedding": "y" * 40 + SECRET + "!"}], "model": f"m {SECRET}"}
    with serving(lambda _: Response(found)) as other, client(other.url, headers=headers) as c:
        with pytest.raises(EndpointProblem, match=r"expected base64, found 'yyy.*…!") as e:  # 60 letters are shown
            c.ask(["a"])
        found["data"][0]["embedding"] = [1.0]
        assert c.ask(["a"]).said.model == "m …"
    assert SECRET[:9] not in str(e.value)
    url = f"{server.url}?key={SECRET}"
    with client(url) as c, pytest.raises(EndpointProblem) as e:
        c.embed(["a"])
    assert SECRET not in str(e.value) + repr(c) + json.dumps(c.endpoint.to_json())


@pytest.fixture(scope="module")
def mini(harness, int8):
    """A server that keeps int8 MiniLM, asked in OpenAI's protocol."""
    encoder = harness.encoder(parse_precision("int8"), "minilm")
    with serving(openai(encoder.encode)) as server:
        yield server


@pytest.fixture
def configured(small, tmp_path, mini):
    """The small project with that server in its configuration."""
    (tmp_path / "own.jsonl").symlink_to(small / "own.jsonl")
    (tmp_path / "golden").symlink_to(small / "golden")
    text = (small / "pyproject.toml").read_text()
    table = f'[tool.qguard.endpoint.live]\nurl = "{mini.url}"\nbatch = 16\nheaders = {{ Authorization = "QG_KEY" }}\n'
    (tmp_path / "pyproject.toml").write_text(text + table)
    return tmp_path


def test_a_server_is_judged_by_its_url(small, mini, tmp_path):
    report = tmp_path / "r.json"
    code, out = gate(small, f"--endpoint={mini.url}", f"--qguard-report={report}", precision="served")
    assert code == 0, out
    (run,) = json.loads(report.read_text())["runs"]
    assert (run["precision"], run["runtime"], run["verdict"]) == ("served", "endpoint", "pass")
    assert {"test_embeddings", "test_similarity", "test_ranking", "test_invariance"} <= set(run["tests"])
    assert "artifact" in run["left_out"]
    server = run["endpoint"]
    assert (server["url"], server["model"], server["says"], server["encoding"]) == (mini.url, "minilm", "minilm", "base64")
    assert server["lengths"] == pytest.approx([1, 1], abs=1e-3)
    said = " ".join(out.split())
    assert f"server {mini.url} (protocol openai, vectors in base64)" in said
    assert "vectors of length 1, as the model declares" in said


def test_a_server_is_judged_by_its_name_and_its_gates(configured, monkeypatch):
    monkeypatch.setenv("QG_KEY", f"Bearer {SECRET}")
    code, out = gate(configured, precision="live")
    assert code == 0, out
    with (configured / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates.live]\n"ranking.overlap@10" = ">= 1.1"\n')
    code, out = gate(configured, "--qguard-report=r.json", "--qguard-report=r.html", precision="live")
    assert code == 1
    assert "live ranking.overlap@10" in out
    assert SECRET not in out + (configured / "r.json").read_text() + (configured / "r.html").read_text()


def test_the_next_step_names_the_server():
    """A report on a server that --endpoint names: what it advises to run is run with that option."""
    from qguard.report.advice import Case, measure_again, steps

    failed = judge([Measured("ranking.top1", None, 0.5, 10, True)], [parse_gate("ranking.top1", ">= 0.9")], "own")
    case = Case("served", "served", "float32", "own", failed, url="http://localhost:8080")
    assert measure_again(case).command == "pytest --precision served --endpoint http://localhost:8080 --qguard-suite own"
    others = next(s.command for s in steps(case) if s.command.startswith("qguard compare"))
    assert others.endswith("bf16@openvino --endpoint http://localhost:8080 --suite own")
    assert "--endpoint" not in measure_again(Case("live", "live", "float32", "own", url="http://h")).command


def test_another_model_behind_the_url_fails(small, harness):
    encoder = harness.encoder(parse_precision("int8"), "minilm")
    with serving(openai(lambda texts: encoder.encode(texts)[:, ::-1])) as server:
        config = load_config(small).served(server.url)
        target = Target(parse_precision("served", config.own_precisions), "minilm", "own")
        failed = {c.name for c in Session(config).checks(target, "embedding") if c.outcome == "fail"}
    assert "embedding.cosine_mean" in failed


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--precision", "served"), "no server is given: give --endpoint URL"),
        (("--endpoint=http://localhost:1",), "--endpoint needs --precision"),
        (("--precision", "int8", "--endpoint=http://localhost:1"), "--precision served"),
        (("--precision", "served", "--endpoint=localhost"), "expected http:// or https://"),
        (("--precision", "served", "--endpoint-model=m"), "--endpoint-model is of the server that --endpoint URL names"),
        (("--precision", "served", "--endpoint=http://localhost:1", "--artifact=x"), "reads no files; leave it out"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_refused(small, args, words):
    code, out = run_pytest(small, "--pyargs", "qguard.gate", *args)
    assert code == 4, out
    assert words in out


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('url = "http://u:sk-1234567890@h"', "holds a user or password"),
        ('url = "http://h"\nprotocol = "opnai"', "did you mean openai"),
        ('url = "http://h"\nheaders = { Authorization = "Bearer sk-1234567890" }', "may be the secret itself"),
        ('url = "http://h"\nheaders = { Host = "KEY" }', "Host is set by qguard itself"),
        ('url = "http://h"\nprecision = "int9"', "unknown precision|unknown recipe"),
        ('url = "http://h"\nbatch = 0', "batch"),
        ('url = "http://h"\nkey = "x"', "unknown key"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, table, words):
    (tmp_path / "pyproject.toml").write_text(f"[tool.qguard.endpoint.live]\n{table}\n")
    with pytest.raises(UsageProblem, match=words) as e:
        load_config(tmp_path)
    assert SECRET not in str(e.value)


def test_a_name_is_that_of_one_table(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.qguard.endpoint.live]\nurl = "http://h"\n[tool.qguard.precision.live]\nrecipe = "int8"\n'
    )
    with pytest.raises(UsageProblem, match=r"\[tool\.qguard\.precision\.live\] has that name too"):
        load_config(tmp_path)


def test_a_server_stands_beside_precisions_in_compare(configured, monkeypatch):
    monkeypatch.setenv("QG_KEY", f"Bearer {SECRET}")
    found = Session(load_config(configured))
    precisions = [parse_precision(p, found.config.own_precisions) for p in ("fp32", "live")]  # fp32 is timed against itself
    here, there = compare(found, precisions, lambda _: None)
    assert (there.precision, there.runtime, there.verdict, there.bytes, there.speed) == ("live", "endpoint", "pass", None, {})
    assert 0.9 < there.values["ranking.overlap@10"] < here.values["ranking.overlap@10"]
    assert "live" in str(table([here, there]).columns[1]._cells)


def test_vectors_of_a_server_are_stored_in_every_way(small, mini):
    config = load_config(small).served(mini.url)
    found = Session(config)
    own = config.own_precisions
    plain, binary = (Target(parse_precision(p, own), "minilm", "own") for p in ("served", "served:256+binary"))
    found.targets([plain.precision, binary.precision])
    before = len(mini.requests)
    assert found.comparison(plain).candidate.shape == (117, 384)
    asked = len(mini.requests)
    of_suite = [r for r in mini.requests[before:] if len(r.value["input"]) > 1]  # a fingerprint's texts are asked alone
    assert len(of_suite) == -(-117 // 32)
    assert found.comparison(binary).candidate.shape == (117, 256)
    assert len(mini.requests) == asked  # what is stored is cut from vectors that are there
