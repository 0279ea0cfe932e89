"""Every protocol against the reference server: what comes back is what the model gives, whatever its kind."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qguard.config import load_config
from qguard.endpoints.client import Client
from qguard.endpoints.fingerprint import SAME, SKETCH, TEXTS, Fingerprint, sketched
from qguard.endpoints.runtime import EndpointRuntime
from qguard.endpoints.settings import Endpoint
from qguard.errors import EndpointProblem, UsageProblem
from qguard.judging.session import Session
from qguard.precisions import precision_at
from qguard.suites.paired import TextPair
from tests.http_server import Response, openai, serving
from tests.kinds import QUERIES
from tests.kinds import TEXTS as WORDS

PAIRS = [TextPair(q, t) for t in WORDS for q in QUERIES]
WIDTH = 1000
LOGITS = np.array([[-3.0], [0.0], [30.0]])


def client(url, kind="dense", **settings):
    return Client(Endpoint("served", url, **{"retries": 0, **settings}), kind, "tiny", WIDTH if kind == "sparse" else 0)


def broken(answer, kind, protocol):
    """What the client says of an answer to two texts, or pairs of one query."""
    texts = [TextPair("q", "a"), TextPair("q", "b")] if kind == "cross-encoder" else ["a", "b"]
    with serving(lambda _: Response(answer)) as server, client(server.url, kind, protocol=protocol) as c:
        return said(c, texts)


def said(c, texts):
    with pytest.raises(EndpointProblem) as e:
        c.embed(texts)
    return str(e.value)


@pytest.mark.parametrize("protocol", ["openai", "tei", "ollama"])
def test_vectors(server, served, protocol):
    with client(server("dense"), protocol=protocol, batch=3) as c:
        found, one = c.embed(WORDS), c.one(WORDS[0])
    assert np.allclose(found, served("dense").embed(WORDS).outputs, atol=1e-6)
    assert one.model == (None if protocol == "tei" else "tiny")
    assert one.tokens == (None if protocol == "tei" else served("dense").embed(WORDS[:1]).tokens)
    assert one.encoding == ("base64" if protocol == "openai" else "float")


@pytest.mark.parametrize("protocol", ["tei", "cohere"])
@pytest.mark.parametrize("batch", [1, 5, 100])
def test_scores_of_pairs_are_logits(server, served, protocol, batch):
    with client(server("cross-encoder"), "cross-encoder", protocol=protocol, batch=batch) as c:
        found = c.embed(PAIRS)
        one = c.one(PAIRS[4]).outputs
    assert found.shape == (len(PAIRS), 1)
    assert np.allclose(found, served("cross-encoder").embed(PAIRS).outputs, atol=1e-4)
    assert np.allclose(one, found[4], atol=1e-4)


def test_weights_of_words(server, served, tiny):
    model = Session(load_config(tiny("sparse"))).model("tiny")
    runtime = EndpointRuntime(model, "int8", None, endpoint=Endpoint("served", server("sparse"), protocol="tei", batch=2))
    found = runtime.client.embed(WORDS)
    expected = served("sparse").weights(WORDS)
    assert found.shape == expected.shape
    assert abs(found.matrix - expected.matrix).max() < 1e-6


def test_rerankers_are_asked_once_a_query():
    def answers(request):
        return Response([{"index": i, "score": float(len(t))} for i, t in enumerate(request.value["texts"])][::-1])

    pairs = [TextPair(q, "x" * n) for n in (1, 2, 3) for q in ("a", "b")]
    with serving(answers) as server, client(server.url, "cross-encoder", protocol="tei", batch=4, concurrency=1) as c:
        assert c.embed(pairs)[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    asked = [(r.value["query"], len(r.value["texts"])) for r in server.requests]
    assert asked == [("a", 3), ("b", 1), ("b", 2)]
    assert all(r.value["raw_scores"] for r in server.requests)


@pytest.mark.parametrize(
    ("normalized", "scores"), [(None, 1 / (1 + np.exp(-LOGITS))), (True, 1 / (1 + np.exp(-LOGITS))), (False, LOGITS)]
)
def test_scores_after_the_sigmoid_are_taken_back(normalized, scores):
    results = [{"index": i, "relevance_score": float(np.float32(s))} for i, s in enumerate(scores[:, 0])]
    pairs = [TextPair("q", t) for t in "abc"]
    settings = {"protocol": "cohere", "normalized": normalized}
    with serving(lambda _: Response({"results": results})) as server, client(server.url, "cross-encoder", **settings) as c:
        found = c.embed(pairs)
    assert np.allclose(found[:2], LOGITS[:2], atol=1e-5)
    assert found[2, 0] > 17  # float32 tells no more of a sigmoid that is 1


@pytest.mark.parametrize(
    ("answer", "kind", "protocol", "words"),
    [
        ([[1.0, 2.0]], "dense", "tei", "expected 2 vectors for 2 texts, found 1"),
        ({"error": "x"}, "dense", "tei", "expected a list of vectors, found a JSON object with 'error'"),
        ([[1.0, 2.0], 3.0], "dense", "tei", "vector 1: expected a list of numbers, found 3.0"),
        ({"embeddings": [[1.0]]}, "dense", "ollama", "expected 2 embeddings for 2 texts, found 1"),
        ({"embedding": [1.0]}, "dense", "ollama", "the answer: expected 'embeddings', found a JSON object with 'embedding'"),
        ([{"index": 0, "score": 1.0}], "cross-encoder", "tei", "expected 2 scores for 2 texts, found 1"),
        ([{"index": 0, "score": 1.0}] * 2, "cross-encoder", "tei", "index 0 of scores stands there twice, and 1 is missing"),
        ([{"index": 0, "score": "1"}, {"index": 1, "score": 1}], "cross-encoder", "tei", "expected a whole number or a number"),
        ({"results": [{"index": 0, "relevance_score": 5.0}, {"index": 1, "relevance_score": 0.5}]}, "cross-encoder", "cohere",
         "expected scores after the sigmoid, of 0 to 1, found 5.0; if the server gives scores before it, say so"),
        ([[{"index": 1, "value": 1.0}], {}], "sparse", "tei", "row 1: expected a list of objects with 'index' and 'value'"),
        ([[{"index": 1, "value": 1.0}] * 2, []], "sparse", "tei", "row 0: an index stands there twice"),
        ([[{"index": -1, "value": 1.0}], []], "sparse", "tei", "row 0: expected indices of 0"),
        ([[{"index": 1}], []], "sparse", "tei", "an entry of row 0: expected 'value'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer_is_said_in_words(answer, kind, protocol, words):
    assert words in broken(answer, kind, protocol)


@pytest.mark.parametrize(
    ("kind", "protocol", "words"),
    [
        ("cross-encoder", "openai", "asked with protocol = 'tei' or 'cohere'"),
        ("cross-encoder", "ollama", "asked with protocol = 'tei' or 'cohere'"),
        ("sparse", "cohere", "asked with protocol = 'tei'"),
        ("dense", "cohere", "asked with protocol = 'openai' or 'tei' or 'ollama'"),
        ("multi-vector", "openai", "no protocol of endpoints carries a vector to each token"),
    ],
)
def test_a_protocol_that_does_not_carry_the_kind_is_refused(kind, protocol, words):
    with pytest.raises(UsageProblem, match=words):
        client("http://localhost:1", kind, protocol=protocol)


def test_a_precision_of_another_kind_is_refused_before_a_server_is_asked(tiny):
    model = Session(load_config(tiny("cross-encoder"))).model("tiny")
    with pytest.raises(UsageProblem, match="does not carry scores for a pair of texts"):
        precision_at(Endpoint("served", "http://localhost:1")).build(model)


def test_prompts_are_put_in_front_by_one_side(server, served, tiny):
    session = Session(load_config(tiny("dense")))
    model, texts = session.model("tiny"), [*QUERIES[:2], WORDS[0]]
    roles = ["query", None, "document"]
    rows = [model.pipeline.prefix(role) + text for role, text in zip(roles, texts, strict=True)]
    expected = served("dense").embed(rows).outputs

    def encoded(**settings):
        precision = precision_at(Endpoint("served", server("dense"), **settings))
        encoder = session.encoder(precision, "tiny")
        return encoder.encode_rows(encoder.rows(texts, roles))

    assert model.pipeline.prefix("query")
    assert np.allclose(encoded(), expected, atol=1e-6)
    assert np.allclose(encoded(protocol="tei", prompts="server"), expected, atol=1e-6)  # which is told their names
    assert np.allclose(encoded(prompts="server"), served("dense").embed(texts).outputs, atol=1e-6)


def test_lengths_are_as_the_settings_say(tiny):
    session = Session(load_config(tiny("dense")))
    model = session.model("tiny")
    assert model.pipeline.unit_length

    def encoded(normalized):
        with serving(openai(lambda texts: [[3.0, 4.0]] * len(texts))) as server:
            runtime = EndpointRuntime(model, "int8", None, endpoint=Endpoint("served", server.url, normalized=normalized))
            return runtime(["a", "b"], [None, None]).tolist()

    assert encoded(None) == [[3.0, 4.0]] * 2
    assert np.allclose(encoded(False), [[0.6, 0.8]] * 2)
    with pytest.raises(EndpointProblem, match="normalized = true, and the server returned vectors of length 5 to 5"):
        encoded(True)


def test_a_model_with_several_scores_is_refused(tmp_path):
    from tests.kinds import tiny_cross_encoder

    tiny_cross_encoder(tmp_path / "model", 3)
    (tmp_path / "pyproject.toml").write_text('[tool.qguard.models]\ntiny = "model"\n')
    model = Session(load_config(tmp_path)).model("tiny")
    with pytest.raises(UsageProblem, match="gives several scores a pair, and protocols of rerankers carry one"):
        EndpointRuntime(model, "int8", None, endpoint=Endpoint("served", "http://localhost:1", protocol="tei"))


@pytest.mark.parametrize(("kind", "protocol"), [("dense", "openai"), ("cross-encoder", "tei"), ("sparse", "tei")])
def test_a_fingerprint_is_measured_again_alike(server, kind, protocol):
    with client(server(kind), kind, protocol=protocol) as c:
        first, second = Fingerprint.of(c), Fingerprint.of(c)
    assert first.same(second)
    assert first.apart(second) == first.noise == 0
    read = Fingerprint.from_json(json.loads(json.dumps(first.to_json())))
    assert read.sha256 == first.sha256
    assert read.apart(first) == 0
    assert first.sketch.shape == (len(TEXTS), SKETCH)


def test_a_fingerprint_tells_int8_from_fp32_and_one_width_from_another(server, tiny):
    from tests import servers

    with servers.running(servers.application(servers.model_of(tiny("dense"), "fp32"))) as url, client(url) as c:
        fp32 = Fingerprint.of(c)
    with client(server("dense")) as c:
        int8 = Fingerprint.of(c)
    assert int8.apart(fp32) > 3 * SAME
    assert not int8.same(fp32)
    assert int8.apart(replace(int8, width=8)) == float("inf")
    assert not int8.same(replace(int8, width=8, sketch=fp32.sketch))


def test_a_sketch_keeps_distances():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 384)).astype(np.float32)
    near = rows + 0.01 * rng.standard_normal(rows.shape).astype(np.float32)
    ratio = np.linalg.norm(sketched(near) - sketched(rows), axis=1) / np.linalg.norm(near - rows, axis=1)
    assert 0.9 < ratio.mean() < 1.1
    assert 0.5 < ratio.min() < ratio.max() < 1.6
