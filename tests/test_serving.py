"""The reference server: every protocol answers what the encoder computes, and refuses in words what it does not do."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from qguard.errors import UsageProblem
from qguard.serving.listening import listen, loopback
from tests import servers
from tests.processes import qguard

httpx = pytest.importorskip("httpx")  # of the extras 'endpoint' and 'serve'
pytest.importorskip("starlette")

TEXTS = ["rye dough rests", "the ferry", "minutes of a meeting are sent within three days, and beans soak overnight"]
ERRORS = {  # by path, where the words of an error stand
    "/v1/embeddings": lambda found: found["error"]["message"],
    "/embed": lambda found: found["error"],
    "/api/embed": lambda found: found["error"],
    "/v2/rerank": lambda found: found["message"],
}


def post(url: str, path: str, body: object, code: int = 200) -> object:
    answer = httpx.post(url + path, json=body, timeout=20)
    assert answer.status_code == code, answer.text
    return answer.json()


def refused(url: str, path: str, body: object, code: int) -> str:
    return ERRORS[path](post(url, path, body, code))


@pytest.fixture(scope="module")
def vectors(served):
    return served("dense").embed(TEXTS).outputs


def test_openai_floats_and_base64(server, served, vectors):
    asked = {"model": "tiny", "input": TEXTS}
    floats = post(server("dense"), "/v1/embeddings", asked)
    coded = post(server("dense"), "/v1/embeddings", asked | {"encoding_format": "base64", "user": "u"})
    assert [d["index"] for d in floats["data"]] == [0, 1, 2]
    assert np.array_equal(np.float32([d["embedding"] for d in floats["data"]]), vectors)
    read = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in coded["data"]]
    assert np.array_equal(np.stack(read), vectors)
    tokens = served("dense").embed(TEXTS).tokens
    assert floats["usage"] == coded["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert floats["model"] == "tiny"
    assert [m["id"] for m in httpx.get(server("dense") + "/v1/models").json()["data"]] == ["tiny"]


def test_dimensions_are_cut_and_of_unit_length_again(server, vectors):
    cut = vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True)
    openai = post(server("dense"), "/v1/embeddings", {"model": "tiny", "input": TEXTS, "dimensions": 8})
    assert np.allclose([d["embedding"] for d in openai["data"]], cut, atol=1e-6)
    assert np.allclose(post(server("dense"), "/embed", {"inputs": TEXTS, "dimensions": 8}), cut, atol=1e-6)
    said = refused(server("dense"), "/v1/embeddings", {"model": "tiny", "input": TEXTS, "dimensions": 33}, 400)
    assert said == "dimensions: expected 1 to 32, found 33"


def test_tei_embeds_with_a_prompt_of_the_model(server, served, vectors):
    assert np.array_equal(np.float32(post(server("dense"), "/embed", {"inputs": TEXTS})), vectors)
    with_prompt = post(server("dense"), "/embed", {"inputs": TEXTS[0], "prompt_name": "query"})
    assert np.array_equal(np.float32(with_prompt), served("dense").embed(["when: " + TEXTS[0]]).outputs)
    assert "known: document, query" in refused(server("dense"), "/embed", {"inputs": "a", "prompt_name": "passage"}, 400)
    info = httpx.get(server("dense") + "/info").json()
    assert (info["model_id"], info["model_dtype"], info["max_input_length"]) == ("tiny", "int8", 64)
    assert httpx.get(server("dense") + "/health").status_code == 200


def test_ollama(server, vectors):
    found = post(server("dense"), "/api/embed", {"model": "tiny:latest", "input": TEXTS})
    assert np.array_equal(np.float32(found["embeddings"]), vectors)
    assert found["prompt_eval_count"] > 10


def test_sparse_weights(server, served):
    found, rows = post(server("sparse"), "/embed_sparse", {"inputs": TEXTS}), served("sparse").weights(TEXTS)
    for text, row in zip(found, rows.matrix.toarray(), strict=True):
        assert {w["index"]: np.float32(w["value"]) for w in text} == {int(i): row[i] for i in np.flatnonzero(row)}


def test_rerankers_give_the_highest_score_first(server, served):
    query, logits = "when does the ferry leave", served("cross-encoder").scores("when does the ferry leave", TEXTS).outputs
    order, url = np.argsort(-logits).tolist(), server("cross-encoder")
    raw = post(url, "/rerank", {"query": query, "texts": TEXTS, "raw_scores": True, "return_text": True})
    assert [(r["index"], r["text"]) for r in raw] == [(i, TEXTS[i]) for i in order]
    assert np.array_equal(np.float32([r["score"] for r in raw]), logits[order])
    asked = {"model": "tiny", "query": query, "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found = post(url, path, asked)["results"]
        assert [r["index"] for r in found] == order
        assert np.allclose([r["relevance_score"] for r in found], 1 / (1 + np.exp(-logits[order])))
    top = post(url, "/v2/rerank", asked | {"top_n": 1, "return_documents": True})["results"]
    assert [(r["index"], r["document"]) for r in top] == [(order[0], {"text": TEXTS[order[0]]})]


def test_a_long_text_is_cut_or_refused_where_that_is_asked(server, served):
    long = "ferry " * 200
    (cut,) = post(server("dense"), "/embed", {"inputs": long})
    assert np.array_equal(np.float32(cut), served("dense").embed(["ferry " * 62]).outputs[0])
    usage = post(server("dense"), "/v1/embeddings", {"model": "tiny", "input": long})["usage"]
    assert usage["prompt_tokens"] == 64
    for path, body, code in (("/embed", {"inputs": long}, 413), ("/api/embed", {"model": "tiny", "input": long}, 400)):
        said = refused(server("dense"), path, body | {"truncate": False}, code)
        assert said == "expected a text of at most 64 tokens, found 202, and it is not to be cut"
    post(server("dense"), "/embed", {"inputs": "ferry " * 62, "truncate": False})


@pytest.mark.parametrize(
    ("path", "body", "code", "words"),
    [
        ("/v1/embeddings", {"model": "other", "input": "a"}, 404, "no model 'other' here; this server has 'tiny'"),
        ("/v1/embeddings", {"input": "a"}, 400, "model: expected a value, found none"),
        ("/v1/embeddings", {"model": "tiny", "input": []}, 400, "input: expected at least one text, found none"),
        ("/v1/embeddings", {"model": "tiny", "input": [1, 2]}, 400, r"input\[0\]: expected a text, found the number 1"),
        ("/v1/embeddings", {"model": "tiny", "input": ["a"] * 2049}, 413, "at most 2048 texts, found 2049"),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "int8"}, 400, "float or base64, found 'int8'"),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "dimensions": True}, 400, "a whole number from 1 on, found true"),
        ("/embed", {"inputs": "a", "truncat": True}, 400, "unknown field 'truncat'; did you mean truncate"),
        ("/embed", {"inputs": "a", "truncate": "yes"}, 400, "truncate: expected true or false, found a text"),
        ("/embed", {"inputs": {"text": "a"}}, 400, "expected a text or a list of texts, found an object"),
        ("/embed", {"inputs": ["a", "\ud800"]}, 400, "half of a surrogate pair"),
        ("/embed", {"inputs": "a" * 1_000_001}, 413, "at most 1000000 characters"),
        ("/embed", [1], 400, "expected a JSON object, found a list"),
        ("/api/embed", {"model": "other", "input": "a"}, 404, "no model 'other'"),
        ("/v2/rerank", {"model": "tiny", "query": "a", "documents": ["b"]}, 400, "gives one vector to a text"),
    ],
)  # fmt: skip
def test_errors_in_words(server, path, body, code, words):
    content = json.dumps(body).encode()
    answer = httpx.post(server("dense") + path, content=content, timeout=20)
    assert answer.status_code == code, answer.text
    assert re.search(words, ERRORS[path](answer.json()))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"inputs": "\xff"}', b"1" * 10_000, b'{"inputs": ' + b"9" * 9_000 + b"}"]
)
def test_what_is_no_json_is_refused(server, content):
    answer = httpx.post(server("dense") + "/embed", content=content, timeout=20)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


def test_other_paths_and_methods(server):
    assert httpx.get(server("dense") + "/embed").json()["error"] == "/embed takes POST"
    answer = httpx.post(server("dense") + "/v1/completions", json={})
    assert answer.status_code == 404
    assert "there is /api/embed, /embed" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_or_never_ends_is_refused(served):
    with servers.running(servers.application(served("dense"), body=1000, seconds=0.5)) as url:
        said = httpx.post(url + "/embed", content=b" " * 2000, timeout=20)
        assert (said.status_code, said.json()["error_type"]) == (413, "validation")
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 20) as slow:
            slow.sendall(b"POST /embed HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            assert b"408" in slow.recv(1000)


def test_more_requests_than_the_queue_holds_are_refused(served):
    with servers.running(servers.application(served("dense"), waiting=1, seconds=2)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 20) as waiting:
            waiting.sendall(b"POST /embed HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            for _ in range(100):
                answer = httpx.post(url + "/embed", json={"inputs": "a"}, timeout=20)
                if answer.status_code == 429:
                    break
                time.sleep(0.01)
            assert answer.json()["error_type"] == "overloaded"
            assert answer.json()["error"].startswith("1 requests are being answered, and no more are taken")
            waiting.recv(1000)
        assert httpx.post(url + "/embed", json={"inputs": "a"}, timeout=20).status_code == 200


def test_vectors_do_not_depend_on_other_clients(server, vectors):
    found: list[object] = []

    def ask(i: int) -> None:
        for _ in range(5):
            (vector,) = post(server("dense"), "/embed", {"inputs": [TEXTS[i]]})
            found.append(np.array_equal(np.float32(vector), alone[i]))

    alone = [np.float32(post(server("dense"), "/embed", {"inputs": [text]})[0]) for text in TEXTS]
    threads = [threading.Thread(target=ask, args=(k % 3,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 60
    assert np.allclose(alone, vectors, atol=1e-6)


def test_the_command_says_where_it_serves_and_ends_when_told(tiny):
    command = [sys.executable, "-c", "import sys; from qguard.cli import main; sys.exit(main())", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=tiny("dense"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert re.match(r"serving int8 of tiny at http://127\.0\.0\.1:[1-9]\d*  \(stop with Ctrl-C\)", line), (
            process.stderr.read()
        )
        url = line.split()[5]
        assert len(post(url, "/embed", {"inputs": "a"})[0]) == 32
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--port", "70000"), "expected 0 to 65535"),
        (("--host", "no.such.host.invalid"), "is no address of this machine"),
        (("--precision", "int8+binary"), "give --precision int8"),
    ],
)
def test_wrong_options_of_the_command(tiny, args, words):
    code, out = qguard(tiny("dense"), "serve", *args)
    assert code == 2
    assert words in " ".join(out.split())


def test_a_port_in_use_and_an_address_for_everybody():
    with listen("127.0.0.1", 0) as taken:
        assert loopback(taken)
        with pytest.raises(UsageProblem, match=r"cannot listen at 127\.0\.0\.1 port"):
            listen("127.0.0.1", taken.getsockname()[1])
    with listen("0.0.0.0", 0) as open_to_all:
        assert not loopback(open_to_all)
