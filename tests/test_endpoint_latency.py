"""The latency of servers: what is sent, how it is judged, and what other tools state of it."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from qguard.config import load_config
from qguard.errors import EndpointProblem, MeasurementProblem, UsageProblem
from qguard.judging import latency, load
from qguard.judging.beside import serving as serving_beside
from qguard.judging.session import Session
from qguard.latency.decision import FAIL, INCONCLUSIVE, PASS, Rule, look
from qguard.latency.load import CLOSED, OPEN, Load, Plan, run_load
from qguard.latency.served import ServedSpec
from qguard.latency.stated import read
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision
from qguard.report import assemble
from qguard.report.as_html import render as as_html
from qguard.report.as_markdown import render as as_markdown
from qguard.report.shape import checked
from qguard.report.terminal import latency_text, summary_lines
from tests.http_server import Response, openai, serving
from tests.processes import qguard, run_pytest

DATA = Path(__file__).with_name("data")
BATCH = (("a ferry", "a bridge"), ("the minutes",))


def project(folder: Path, table: str, url: str = "http://127.0.0.1:1", more: str = "") -> Session:
    """A project with one server, and its load."""
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard.models]\ntiny = "model"\n[tool.qguard.endpoint.live]\nurl = "{url}"\n'
        f'headers = {{ Authorization = "KEY" }}\n[tool.qguard.endpoint.live.load]\n{table}\n{more}'
    )
    return Session(load_config(folder))


def live(session: Session):
    return parse_precision("live", session.config.own_precisions)


@pytest.mark.parametrize(
    ("text", "number"), [("<= 50 ms", 50), ("<= 0.05 s", 50), ("<=50", 50), ("<= 1.5s", 1500), ("<= 2e1 ms", 20)]
)
def test_a_bound_on_a_time_has_a_unit_or_is_in_milliseconds(tmp_path, text, number):
    session = project(tmp_path, f'p95 = "{text}"')
    (bucket,) = latency.buckets(session, live(session))
    assert str(bucket) == "64x1-closed"
    p95, failed = latency.gates(session, live(session), "tiny", bucket)
    assert (p95.metric, p95.bound) == ("latency.p95", Bound("<=", pytest.approx(number)))
    assert (failed.metric, failed.bound) == ("latency.failed", Bound("<=", 0))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('p95 = ">= 5 ms"', "expected a bound such as '<= 0.01'"),
        ('p95 = "<= 5 m"', "expected a bound such as"),
        ('p95 = "<= -5 ms"', "expected a bound such as"),
        ("clients = 0", "without both no load is sent"),
        ("clients = 1000", "clients"),
        ("rate = 1e9", "rate"),
        ("tokens = [1]", "expected numbers from 3"),
        ('arrivals = "bursts"', "arrivals"),
        ('p90 = "<= 5 ms"', "unknown key"),
        ('stated = { p95 = "5" }', "expected a bound such as"),
    ],
)
def test_a_load_that_cannot_be_sent_is_refused(tmp_path, table, words):
    with pytest.raises(UsageProblem, match=words):
        project(tmp_path, table)


def test_each_load_is_a_test_and_shares_the_chance_of_a_false_alarm(tmp_path):
    session = project(tmp_path, 'clients = 8\nrate = 5\ntokens = [16, 64]\np95 = "<= 50 ms"\nfp32 = true')
    found = latency.buckets(session, live(session))
    assert list(map(str, found)) == ["16x1-closed", "16x1-open", "16x1", "64x1-closed", "64x1-open", "64x1"]
    assert latency.gate_count(session, [live(session)]) == 8
    session.baseline_endpoint = "http://127.0.0.1:2"
    assert latency.gate_count(session, [live(session)]) == 9  # a regression, of 64 tokens alone
    assert load.left_out(session, live(session)) == ""
    assert live(session).runs_in.left_out()["memory"] == "a server computes elsewhere"


def test_without_a_load_latency_is_left_out_with_the_reason(tmp_path):
    session = project(tmp_path, "clients = 1")
    served = session.config.served("http://localhost:3")
    session = Session(served)
    precision = parse_precision("served", served.own_precisions)
    assert latency.buckets(session, precision) == []
    assert load.left_out(session, precision) == "no load is stated: [tool.qguard.endpoint.served.load]"
    session.baseline_endpoint = "live"
    assert list(map(str, latency.buckets(session, precision))) == ["64x1-closed", "64x1"]


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        ("live", {"baseline_path": Path("x")}, "compare it with --baseline-endpoint"),
        ("int8", {"baseline_endpoint": "live"}, "give --precision NAME of an endpoint"),
        ("live", {"baseline_endpoint": "lvie"}, "did you mean live"),
        ("live", {"baseline_endpoint": "ftp://h"}, "expected http:// or https://"),
        ("live", {"baseline_endpoint": "http://u:secret@h"}, "holds a user or password"),
    ],
)
def test_a_server_is_compared_with_servers(tmp_path, names, given, words):
    session = project(tmp_path, "clients = 1")
    session = replace(session, **given)
    with pytest.raises(UsageProblem, match=words):
        load.refuse(session, [parse_precision(names, session.config.own_precisions)])


def test_fp32_on_this_machine_is_compared_with_a_server_on_this_machine(tmp_path):
    session = project(tmp_path, "fp32 = true", "http://gpu.example:8080")
    with pytest.raises(UsageProblem, match=r"serves fp32 on this machine, and live is at http://gpu\.example:8080"):
        load.refuse(session, [live(session)])
    for url in ("http://localhost:1", "http://127.0.0.9", "http://[::1]:1"):
        session = project(tmp_path, "fp32 = true", url)
        load.refuse(session, [live(session)])


def test_a_secret_does_not_go_to_a_url_that_was_typed(tmp_path):
    session = project(tmp_path, "clients = 1", more='[tool.qguard.endpoint.old]\nurl = "http://old"\n')
    session.baseline_endpoint = "http://other:1"
    found = load.baseline(session, live(session))
    assert (found.url, found.headers, found.protocol) == ("http://other:1", (), "openai")
    session.baseline_endpoint = "old"
    assert load.baseline(session, live(session)).url == "http://old"


def test_texts_are_cut_to_their_tokens_and_are_all_different():
    texts = ["the ferry leaves at nine", "  beans soak overnight ", "", "minutes are sent within three days"]
    found = load.cut_to(texts, 12, 20, lambda some: [2 + len(t.split()) for t in some])
    assert {2 + len(t.split()) for t in found} == {12}
    assert len(set(found)) == 20
    assert all(len((t[:-1]).split()) < 10 for t in found)
    with pytest.raises(MeasurementProblem, match="expected a model that reads 12 tokens, and this one cuts texts before"):
        load.cut_to(texts, 12, 20, lambda some: [min(8, len(t)) for t in some])
    with pytest.raises(MeasurementProblem, match="no text"):
        load.cut_to(["", " "], 12, 20, lambda some: [len(t) for t in some])


def spec(url: str, **more) -> ServedSpec:
    from qguard.endpoints.settings import Endpoint

    return ServedSpec(Endpoint("live", url, timeout=5), model="m", **more)


def lengths(texts):
    return [[float(len(t)), 1.0] for t in texts]


def test_requests_have_their_texts_and_prompts_and_are_not_sent_again():
    with serving(openai(lengths)) as server:
        requests = spec(server.url, prefix="query: ").requests(BATCH, 1)
        for number in range(3):
            requests.check(requests.send(number))
        requests.close()
        sent = [r.value["input"] for r in server.requests[1:]]
        assert sent == [["query: a ferry", "query: a bridge"], ["query: the minutes"], ["query: a ferry", "query: a bridge"]]
    with serving(lambda r: openai(lengths)(r) if r.value["input"] == ["a"] else Response({}, 503)) as server:
        requests = spec(server.url).requests(BATCH, 1)
        asked = len(server.requests)
        with pytest.raises(EndpointProblem) as e:
            requests.check(requests.send(0))
        assert e.value.status == 503
        assert len(server.requests) == asked + 1
        requests.close()


def test_an_answer_of_another_width_or_without_vectors_is_a_failure():
    def answers(request):
        count = len(server.requests)
        if count % 10 == 0:
            return Response({"data": []})
        return openai(lambda texts: [[1.0] * (3 if count % 10 == 5 else 2)] * len(texts))(request)

    with serving(answers) as server:
        requests = spec(server.url).requests((("a ferry",),), 1)
        found = run_load(requests, Plan(CLOSED, 0.5, timeout=5))
        requests.close()
    assert 2 <= found.failed < len(found.latencies)
    assert any("answers have 2 values a text and then 3" in words for words in found.failures)
    assert any("expected 1 embeddings for 1 texts, found 0" in words for words in found.failures)


@pytest.mark.parametrize(
    ("kind", "protocol", "width"),
    [("dense", "openai", 0), ("dense", "ollama", 0), ("cross-encoder", "cohere", 0), ("sparse", "tei", 1 << 20)],
)
def test_a_server_is_an_arm_of_a_trial(server, kind, protocol, width):
    made = spec(server(kind), clients=3, kind=kind, width=width)
    made = replace(made, endpoint=replace(made.endpoint, protocol=protocol), model="tiny")
    arm = made.arm(BATCH)
    arm.open()
    found = arm.block(1, 2)
    arm.close()
    assert len(found) == 6
    assert all(wall == cpu > 0 for wall, cpu in found)
    assert not made.redrawn


def test_a_server_that_is_gone_is_told_and_no_result(tmp_path):
    with serving(openai(lengths)) as server:
        pass
    with pytest.raises(EndpointProblem, match="is the server running"):
        spec(server.url).arm(BATCH).open()


def found(latencies, failures=None, **more) -> Load:
    return Load(Plan(CLOSED, 10, clients=2), array("d", latencies), failures or {}, lags=[0.0], seconds=10.0, busy=0.2, **more)


def judged(first: Load, second: Load | None = None, **bounds: float):
    again = iter([second] if second else [])
    limits = {f"latency.{name}": Bound("<=", number) for name, number in bounds.items()}
    return {c.name: c for c in load.judged(first, limits, Rule(0), "core", "64x1-closed", lambda: next(again))}


def test_bounds_on_a_load_pass_fail_or_are_not_decided():
    fast, slow = found([0.01] * 600), found([0.01] * 560 + [0.09] * 40)
    checks = judged(fast, p50=20, p95=20, p99=20, failed=0)
    assert {c.name: c.outcome for c in checks.values()} == {
        "latency.p50": PASS, "latency.p95": PASS, "latency.p99": PASS, "latency.failed": PASS, "latency.throughput": "reported",
    }  # fmt: skip
    assert (checks["latency.p95"].value, checks["latency.p95"].items, checks["latency.p95"].margin) == (10, 600, 10)
    assert "p95 10.0 ms (10.0 to 10.0), 600 requests in 10.0 s, 2 clients" in checks["latency.p95"].worst[0]
    spread = [v for _, v in sorted((hash((i, 7)) % 997, v) for i, v in enumerate(slow.latencies))]
    mixed = found(spread)
    assert judged(mixed, mixed, p50=20, p99=20)["latency.p99"].outcome == FAIL
    undecided = judged(mixed, p95=20)["latency.p95"]
    assert undecided.outcome == INCONCLUSIVE
    assert "too near to the bound to tell" in undecided.worst[0]
    few = judged(found([0.01] * 50), p95=20)["latency.p95"]
    assert few.outcome == INCONCLUSIVE
    assert "too few requests: 90 are needed that are not slow together; give more seconds" in few.worst[0]


def test_a_failure_stands_only_if_a_repetition_fails_too():
    slow, fast = found([0.05] * 600), found([0.01] * 600)
    stands = judged(slow, slow, p95=20)["latency.p95"]
    assert (stands.outcome, stands.margin) == (FAIL, -30)
    assert "confirmed by a repetition: 50.0 ms" in stands.worst[0]
    falls = judged(slow, fast, p95=20)["latency.p95"]
    assert falls.outcome == INCONCLUSIVE
    assert "not confirmed by a repetition: 10.0 ms" in falls.worst[0]


def test_failed_requests_are_a_check_of_their_own():
    lossy = found([0.01] * 98, {"status 503": 1, "no whole answer in time": 1}, timeouts=1)
    check = judged(lossy, failed=0)["latency.failed"]
    assert (check.outcome, check.value, check.items) == (FAIL, 0.02, 100)
    assert check.worst[0] == "2 of 100 requests failed: status 503 (1), no whole answer in time (1)"
    assert judged(lossy, failed=0.02)["latency.failed"].outcome == PASS
    assert "[tool.qguard.endpoint.live.load]" in latency_text("live", [check])


SESSIONS = json.loads((DATA / "latency_sessions.json").read_text())["equal"]


def share(effect: float, trials: int = 200) -> dict[str, float]:
    """Outcomes of trials that draw recorded sessions with a known slowdown added, by the rule for servers."""
    pick, rule, out = random.Random(0), replace(Rule(math.log(1.05)), redrawn=False), []
    for _ in range(trials):
        drawn = [[d + math.log(effect) for d in pick.choice(SESSIONS)] for _ in range(rule.sessions[1])]
        looks = (look(drawn[:n], rule).outcome for n in range(rule.sessions[0], len(drawn) + 1))
        out.append(next((o for o in looks if o != INCONCLUSIVE), INCONCLUSIVE))
    return {o: out.count(o) / trials for o in (PASS, FAIL, INCONCLUSIVE)}


def test_a_server_that_is_no_slower_raises_no_alarm_and_ten_percent_are_found():
    equal = share(1.0, 1000)
    assert equal[FAIL] == 0
    assert equal[PASS] >= 0.99
    assert share(1.05)[FAIL] == 0
    assert share(1.1)[FAIL] >= 0.95
    assert share(1.15)[FAIL] == 1


def test_the_luck_of_a_server_does_not_go_away_by_connecting_again():
    values = [[math.log(1.04)] * 16] * 8
    assert look(values, replace(Rule(math.log(1.05)), redrawn=True)).outcome == PASS
    assert look(values, replace(Rule(math.log(1.05)), redrawn=False)).outcome == INCONCLUSIVE


def report_of(*, done: bool = True) -> dict:
    """A report of one server with one load."""
    target = {"model": "tiny", "precision": "live", "runtime": "endpoint", "vectors": "float32", "suite": "core"}
    facts = {"bucket": "64x1-closed", "source": "qguard", **found([0.01] * 600, cold=0.04).to_json()}
    checks = [c.to_json() for c in judged(found([0.01] * 600), p95=20, failed=0).values()]
    expected = [{**target, "tests": ["test_latency[64x1-closed]"], "left_out": {load.STATED: "judged by qguard latency import"}}]
    records = [
        {"target": target, "gate": "test_golden_is_current", "checks": [], "done": True, "shipped": True},
        {"target": target, "gate": "test_latency[64x1-closed]", "checks": checks, "load": [facts], "done": done, "shipped": True},
    ]
    return assemble(expected, records)


def test_a_report_shows_loads_and_their_gates():
    report = report_of()
    assert report["verdict"] == "pass"
    lines = "\n".join(summary_lines(report))
    assert "load 64x1-closed, 2 clients: p50 10.0, p95 10.0, p99 10.0 ms, 60.0/s, 600 requests, 0 failed; first 40.0 ms" in lines
    assert "ok   latency.p95[64x1-closed]" in lines
    assert "| `64x1-closed` | `2 clients` | 10.0 | 10.0 | 10.0 | 60.0 | 600 | 0 | 40.0 |" in as_markdown(report).decode()
    page = as_html(report).decode()
    assert '<th scope="row">64x1-closed</th><td>2 clients</td><td class="n">10.0</td>' in page
    assert checked(json.loads(json.dumps(report)))["runs"][0]["load"][0]["p95_ms"] == 10


def test_what_vllm_and_guidellm_state_is_read():
    (vllm,) = read(DATA / "load_vllm.json")
    assert vllm == {
        "source": "vllm bench serve, 20261130-150112", "mode": OPEN, "clients": None, "rate": 20, "arrivals": "poisson",
        "seconds": 10.162, "requests": 198, "failed": 2, "p50_ms": 11.4, "p95_ms": 36.2, "p99_ms": 43.65, "throughput": 19.48,
        "note": "",
    }  # fmt: skip
    poisson, concurrent = read(DATA / "load_guidellm.json")
    assert (poisson["source"], poisson["mode"], poisson["rate"], poisson["requests"]) == ("GuideLLM 0.8.1", OPEN, 10, 30)
    assert poisson["p50_ms"] == pytest.approx(19.46, abs=0.01)  # from when a request was to leave; 11.5 from when it left
    assert (concurrent["mode"], concurrent["clients"], concurrent["arrivals"]) == (CLOSED, 2, None)
    assert concurrent["p99_ms"] == pytest.approx(32.19, abs=0.01)


def changed(tmp_path: Path, **more) -> Path:
    value = json.loads((DATA / "load_vllm.json").read_text()) | more
    (tmp_path / "bench.json").write_text(json.dumps({k: v for k, v in value.items() if v != "gone"}))
    return tmp_path / "bench.json"


def test_other_runs_of_vllm_are_read(tmp_path):
    (burst,) = read(changed(tmp_path, request_rate="inf", max_concurrency=None, median_e2el_including_client_queue_ms="gone"))
    assert (burst["mode"], burst["arrivals"], burst["p95_ms"], burst["note"]) == (OPEN, "all at once", 28.45, "")
    (closed,) = read(changed(tmp_path, request_rate="inf", failed=5))
    assert (closed["mode"], closed["clients"], closed["failed"]) == (CLOSED, 16, 5)
    (older,) = read(changed(tmp_path, median_e2el_including_client_queue_ms="gone"))
    assert "begin when a request left" in older["note"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"completed": 0}, "completed: expected at least one request that was answered, found 0"),
        ({"completed": 1.5}, "completed: expected a whole number"),
        ({"request_throughput": "fast"}, "request_throughput: expected a number of 0 or more, found 'fast'"),
        ({"p95_e2el_including_client_queue_ms": -1}, "expected a number of 0 or more, found -1"),
        ({"output_throughput": 5.0}, "found one of generated text"),
        ({"request_throughput": "gone"}, "expected a result of vllm bench serve"),
        ({"duration": None}, "duration: expected a number of 0 or more, found None"),
        ({"benchmarks": [5]}, "as a result of GuideLLM: metrics: expected a JSON object, found None"),
        ({"benchmarks": [{"metrics": {}, "config": {"strategy": {}}}]}, "request_totals: expected a JSON object"),
    ],
)
def test_a_result_that_is_none_is_refused_by_name(tmp_path, more, words):
    with pytest.raises(UsageProblem, match=words):
        read(changed(tmp_path, **more))


def test_a_stated_figure_is_shown_and_judges_nothing_without_a_bound(tmp_path):
    project(tmp_path, "clients = 1")
    (tmp_path / "r.json").write_text(json.dumps(report_of(done=False)))
    code, out = qguard(tmp_path, "latency", "import", str(DATA / "load_vllm.json"), "--report", "r.json")
    assert code == 0, out
    assert "stated by vllm bench serve, 20261130-150112, not measured by qguard, 20/s, poisson: p50 11.4, p95 36.2" in out
    assert "no bound of the project names these figures" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "unmeasured"  # nothing that is stated makes a gate green
    assert [f["source"] for f in report["runs"][0]["load"]] == ["qguard", "vllm bench serve, 20261130-150112"]
    code, out = qguard(tmp_path, "latency", "import", str(DATA / "load_vllm.json"), "--report", "r.json")
    assert (code, "the report holds this result already" in out) == (2, True)


@pytest.mark.parametrize(("bound", "code", "verdict"), [("<= 40 ms", 0, "pass"), ("<= 30 ms", 1, "fail")])
def test_a_bound_that_names_a_stated_figure_judges_it(tmp_path, bound, code, verdict):
    project(tmp_path, f'stated = {{ p95 = "{bound}", failed = "<= 0.02" }}')
    (tmp_path / "r.json").write_text(json.dumps(report_of()))
    assert load.STATED in json.loads((tmp_path / "r.json").read_text())["runs"][0]["left_out"]
    got, out = qguard(tmp_path, "latency", "import", str(DATA / "load_vllm.json"), "--report=r.json", "--out=n.json")
    assert got == code, out
    assert f"latency.stated_p95 36.2, gate <= {bound.split()[1]}: {verdict.upper()}" in out
    report = json.loads((tmp_path / "n.json").read_text())
    assert report["verdict"] == verdict
    assert load.STATED not in report["runs"][0]["left_out"]


def test_a_bound_on_what_is_not_stated_is_no_pass(tmp_path):
    project(tmp_path, 'stated = { p95 = "<= 40 ms" }')
    (tmp_path / "r.json").write_text(json.dumps(report_of()))
    file = changed(tmp_path, p95_e2el_including_client_queue_ms="gone")
    code, out = qguard(tmp_path, "latency", "import", str(file), "--report", "r.json")
    assert code == 3
    assert "the bound on stated p95 cannot be judged: vllm bench serve, 20261130-150112 does not state it" in out


def test_a_report_of_no_server_takes_no_result(tmp_path):
    project(tmp_path, "clients = 1")
    report = report_of()
    report["runs"][0]["runtime"] = "onnx"
    (tmp_path / "r.json").write_text(json.dumps(report))
    code, out = qguard(tmp_path, "latency", "import", str(DATA / "load_vllm.json"), "--report", "r.json")
    assert (code, "the report is of no server" in out) == (2, True)


def test_the_reference_server_ends_with_who_started_it(tiny):
    command = [sys.executable, "-m", "qguard.cli", "serve", "--port=0", "--until-eof", "--precision=fp32"]
    with subprocess.Popen(command, cwd=tiny("dense"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert b"serving fp32" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(30) == 0


def test_fp32_that_cannot_be_served_is_told(tmp_path):
    session = project(tmp_path, "fp32 = true")
    words = "fp32 of 'tiny' could not be served beside the judged server: "
    with pytest.raises(MeasurementProblem, match=words), serving_beside(session, "tiny"):
        pass


def test_the_gate_measures_loads_and_ratios_of_a_real_model(small, harness, tmp_path, monkeypatch):
    """int8 MiniLM behind a server in this process, whatever else runs: what is sent and reported, not how fast it is."""
    monkeypatch.setattr("qguard.latency.load.LATE", 60)
    monkeypatch.setattr("qguard.latency.load.SATURATED", 9)
    encoder = harness.encoder(parse_precision("int8"), "minilm")
    for name in ("own.jsonl", "golden"):
        (tmp_path / name).symlink_to(small / name)
    with serving(openai(encoder.encode)) as server:
        text = (small / "pyproject.toml").read_text().replace('latency]\nmode = "off"', "latency]\nbudget = 0.2")
        table = "clients = 2\nrate = 20\nseconds = 0.5\ntokens = [32]"
        (tmp_path / "pyproject.toml").write_text(
            f'{text}[tool.qguard.endpoint.live]\nurl = "{server.url}"\n[tool.qguard.endpoint.live.load]\n{table}\n'
        )
        session = Session(load_config(tmp_path), baseline_endpoint=server.url)
        (target,) = session.targets([live(session)])
        closed, opened, paired = latency.buckets(session, target.precision)
        for bucket, clients, rate in ((closed, 2, None), (opened, None, 20)):
            first, *others = latency.trials(session, target, bucket, 1)
            facts = first[1]
            assert (facts["bucket"], facts["clients"], facts["rate"], facts["source"]) == (str(bucket), clients, rate, "qguard")
            assert facts["requests"] == len(first[2]) == first[0].items > 1
            outcomes = {check.name: check.outcome for check, _, _ in (first, *others)}
            assert outcomes.pop("latency.failed") == PASS
            assert set(outcomes.values()) == {"reported"}
            assert latency.memory(session, target, bucket) == []
        ((check, facts, runs),) = latency.trials(session, target, paired, 1)
        assert (check.name, check.slice, check.bound) == ("latency.regression", "32x1", None)  # below 64 tokens
        assert facts["pairs"] >= 2
        assert len(runs) >= 2 * facts["pairs"]
        assert facts["fingerprint"]["endpoint"] == server.url
    lengths = {len(encoder.tokenizer(r.value["input"])[0]) for r in server.requests[-20:]}
    assert lengths == {32}


LOADS = 'clients = 2\nrate = 10\nseconds = 3\nfp32 = true\np95 = "<= 5 s"\np99 = "<= 9 s"\n'


@pytest.mark.timing
def test_a_server_is_timed_under_load_and_beside_fp32(small, tmp_path, harness):
    """int8 MiniLM in a process of its own, under both loads, and in turn with fp32 that the gate serves itself."""
    shutil.copytree(small, tmp_path / "p")
    text = (
        (small / "pyproject.toml")
        .read_text()
        .replace('[tool.qguard.latency]\nmode = "off"', "[tool.qguard.latency]\nbudget = 20")
    )
    command = [sys.executable, "-m", "qguard.cli", "serve", "--port=0", "--until-eof", "--precision=int8"]
    with subprocess.Popen(command, cwd=tmp_path / "p", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        url = process.stdout.readline().decode().split(" at ")[1].split()[0]
        table = f'[tool.qguard.endpoint.live]\nurl = "{url}"\n[tool.qguard.endpoint.live.load]\n{LOADS}'
        (tmp_path / "p" / "pyproject.toml").write_text(text + table)
        args = ("--precision=live", "-k", "latency", "--qguard-report=r.json", f"--baseline-endpoint={url}")
        _, out = run_pytest(tmp_path / "p", "--pyargs", "qguard.gate", *args)
        process.stdin.close()
    (run,) = json.loads((tmp_path / "p" / "r.json").read_text())["runs"]
    outcomes = {c["name"]: c["outcome"] for c in run["checks"]}
    assert "fail" not in outcomes.values(), out  # against itself, it is no slower
    by_mode = {f["mode"]: f for f in run["load"]}
    assert set(by_mode) <= {"closed", "open"}
    for f in by_mode.values():
        assert 0 < f["p50_ms"] <= f["p95_ms"] <= f["p99_ms"]
        assert f["failed"] == 0
    ratios = {f["metric"]: f for f in run["latency"]}
    assert ratios["latency.speedup"]["ratio"] > 1
    assert ratios["latency.speedup"]["fingerprint"]["clients"] == 2
    assert ratios["latency.regression"]["ratio"] == pytest.approx(1, abs=0.3)
