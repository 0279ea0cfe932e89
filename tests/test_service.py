"""What only a server can get wrong: each fault is caught with its reason, and a good server passes."""

from __future__ import annotations

import json
import re
import sys

import pytest

from qguard.config import load_config
from qguard.config.tables import GateConfig
from qguard.endpoints.settings import Endpoint
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.gates.check import PartlyMeasured
from qguard.judging.compare import compare
from qguard.judging.service import CHECKS, judge_service, left_out
from qguard.judging.service.probe import Probe
from qguard.judging.session import Session, Target
from qguard.metrics.service import BOUNDS, NONE
from qguard.precisions import precision_at
from tests import servers
from tests.broken_servers import BROKEN, HEALTHY, OF_TEI, moved
from tests.machine import long_but
from tests.processes import gate


def target(url, **settings):
    given = {"name": "served", "url": url, "timeout": 20, "retries": 1, "replicas": (url,), **settings}
    return Target(precision_at(Endpoint(**given)), "tiny", "own")


def session_of(folder, **service):
    config = load_config(folder)
    return Session(config.model_copy(update={"service": config.service.model_copy(update=service)}))


@pytest.mark.parametrize("kind", ["dense", "cross-encoder", "sparse"])
def test_a_good_server_passes(judged, server, kind):
    protocol = {"cross-encoder": "tei", "sparse": "tei"}.get(kind, "openai")
    session, at = session_of(judged(kind)), target(server(kind), protocol=protocol)
    checks = judge_service(session, at)
    assert {c.name: c.worst for c in checks if c.outcome != "pass"} == {}
    gone = left_out(session, at.precision, "tiny")
    kinds = {name for name, (kinds, _) in CHECKS.items() if session.kind("tiny") in kinds}
    assert {c.name for c in checks} | set(gone) == {f"service.{name}" for name in kinds}
    assert not {c.name for c in checks} & set(gone)


def asked(folder, at, name):
    """What one check finds."""
    with Probe.open(session_of(folder), at.precision, "tiny") as probe:
        return CHECKS[name.partition(".")[2]][1](probe)


OPENAI, TEI = [("openai", n) for n in BROKEN], [("tei", n) for n in OF_TEI]


@pytest.mark.parametrize(("protocol", "name"), long_but(OPENAI, OPENAI + TEI))
def test_a_server_that_breaks_one_thing_is_caught(judged, served, protocol, name):
    broken = {"openai": BROKEN, "tei": OF_TEI}[protocol][name]
    with servers.running(broken.around(servers.application(served(broken.kind)))) as url:
        found = asked(judged(broken.kind), target(url, protocol=protocol, timeout=2, retries=0), broken.metric)
    bound = BOUNDS.get(broken.metric.partition(".")[2], NONE)
    assert not bound.holds(found.value), found
    assert re.search(broken.reason, " ".join(found.words)), found


def test_replicas_that_disagree(judged, served, server):
    with servers.running(moved()(servers.application(served("dense")))) as other:
        found = asked(judged("dense"), target(server("dense"), replicas=(server("dense"), other)), "service.replicas")
    assert found.value < 0.9999
    assert f"the replica {other} and {server('dense')} agree to 0." in found.words[0]


def test_other_vectors_after_a_restart(judged, served, tmp_path):
    """The command leaves a file, from which on the server gives other vectors."""
    made = tmp_path / "restarted"
    command = (sys.executable, "-c", f"open({str(made)!r}, 'w').close()")
    app = servers.application(served("dense"))
    with servers.running(servers.either(made.exists, moved()(app), app)) as url:
        found = asked(judged("dense"), target(url, restart=command), "service.restart")
        again = asked(judged("dense"), target(url, restart=command), "service.restart")
    assert found.value < 0.9999
    assert "before and after the restart command the server's outputs agree to 0." in found.words[0]
    assert again.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-command",), "'no-such-command' cannot be run: No such file"),
        ((sys.executable, "-c", "raise SystemExit('out of memory')"), "ended with 1: out of memory"),
    ],
)
def test_a_restart_command_that_fails_is_not_measured(judged, server, command, words):
    with pytest.raises(MeasurementProblem, match=words):
        asked(judged("dense"), target(server("dense"), restart=command), "service.restart")


def test_outputs_are_kept_for_the_next_run(judged, served, server, tmp_path):
    file = str(tmp_path / "served.json")
    first = target(server("dense"), fingerprint=file)
    with pytest.raises(MeasurementProblem, match=r"now kept in served\.json: run again"):
        asked(judged("dense"), first, "service.restart")
    assert asked(judged("dense"), first, "service.restart").value == pytest.approx(1)
    with servers.running(moved()(servers.application(served("dense")))) as url:
        found = asked(judged("dense"), target(url, fingerprint=file), "service.restart")
    assert found.value < 0.9999
    assert "delete served.json to keep this run's outputs instead" in found.words[0]
    for content, words in (("{}", "cannot be read"), ("[", "not valid JSON")):
        (tmp_path / "served.json").write_text(content)
        with pytest.raises(MeasurementProblem, match=words):
            asked(judged("dense"), first, "service.restart")


@pytest.mark.parametrize("name", HEALTHY)
def test_what_a_server_may_do(judged, served, name):
    """Healthy servers differ: what is refused in words is as good as what is heeded."""
    with servers.running(HEALTHY[name].around(servers.application(served("dense")))) as url:
        checks = judge_service(session_of(judged("dense")), target(url))
    assert {c.name: c.worst for c in checks if c.outcome != "pass"} == {}


def test_what_cannot_be_measured_is_never_green(judged, served):
    """A server that stops to answer after some questions."""
    left = iter(range(60))

    async def change(ask, request):
        return await ask(request) if next(left, None) is not None else (503, {"error": {"message": "overloaded"}})

    with servers.running(servers.Around(servers.application(served("dense")), change)) as url:
        at = target(url, retries=0)
        with pytest.raises(PartlyMeasured, match=r"endpoint 'served' could not be asked everything.*status.* 503") as e:
            judge_service(session_of(judged("dense")), at)
    names = {c.name for c in e.value.checks}
    assert "service.model" in names
    assert {"service.huge", "service.truncation"} & names == set()
    assert all(c.outcome == "pass" for c in e.value.checks)


def test_settings_that_are_skipped_or_only_reported(judged, server):
    at = target(server("dense"))
    session = session_of(judged("dense"), mode="report", skip=("usage", "concurrent"))
    checks = judge_service(session, at)
    assert {c.outcome for c in checks} == {"reported"}
    assert not {"service.usage", "service.concurrent"} & {c.name for c in checks}
    assert left_out(session, at.precision, "tiny")["service.usage"] == "[tool.qguard.service] skip"
    assert not [f for f in session_of(judged("dense"), mode="off").families(at) if f.name == "service"]


def test_a_gate_of_the_project_wins(judged, served):
    with servers.running(BROKEN["any model is served"].around(servers.application(served("dense")))) as url:
        session = session_of(judged("dense"))
        assert [c.name for c in judge_service(session, target(url)) if c.outcome == "fail"] == ["service.unknown_model"]
        session.config.gates["served"] = {"service.unknown_model": GateConfig(bound="<= 1")}
        lax = judge_service(Session(session.config), target(url))
    assert {c.outcome for c in lax} == {"pass"}
    assert [c.promised for c in lax if c.name == "service.unknown_model"] == [NONE]


def test_the_gate_says_what_a_server_did_and_what_could_not_be_measured(judged, served):
    with servers.running(BROKEN["an index twice"].around(servers.application(served("dense")))) as url:
        arguments = ("--endpoint", url, "--endpoint-replica", url, "-k", "service", "--qguard-report=r.json")
        code, out = gate(judged("dense"), *arguments, precision="served")
    assert code == 1
    flat = " ".join(out.split())
    assert "served service.index 2.0000, gate <= 0" in flat
    assert "a request with 2 texts: index 0 of results stands there twice" in flat
    assert "do: change what the server does, or what the endpoint's table says of it (docs/endpoints.md)" in flat
    assert "not measured: endpoint 'served' could not be asked everything. service.order: 17 texts" in flat
    (run,) = json.loads((judged("dense") / "r.json").read_text())["runs"]
    assert run["answers"]["Service"] == "fails"
    assert "test_service" in run["missing"]
    assert (run["tests"]["test_service"], run["verdict"]) == ("fail", "fail")
    assert "service.restart" in run["left_out_because"]
    (index,) = [c for c in run["checks"] if c["name"] == "service.index"]
    assert (index["outcome"], index["value"]) == ("fail", 2)


def test_compare_has_a_row_of_what_could_not_be_measured(judged, served):
    with servers.running(BROKEN["base64 of big-endian numbers"].around(servers.application(served("dense")))) as url:
        (row,) = compare(session_of(judged("dense")), [target(url).precision], lambda _: None)
    assert row.verdict in ("fail", "unmeasured")


def test_options_and_settings(judged):
    code, out = gate(judged("dense"), "--endpoint-replica", "http://127.0.0.1:1", precision="int8")
    assert code == 4
    assert "--endpoint-replica is of the server that --endpoint URL names" in out
    with pytest.raises(UsageProblem, match="unknown metric of servers 'oder'; did you mean order"):
        load_config(_written(judged("dense"), '[tool.qguard.service]\nskip = ["oder"]\n'))
    with pytest.raises(UsageProblem, match="expected http:// or https://"):
        load_config(_written(judged("dense"), '[tool.qguard.endpoint.x]\nurl = "http://h"\nreplicas = ["ftp://h"]\n'))


def _written(folder, more):
    file = folder / "other.toml"
    file.write_text((folder / "pyproject.toml").read_text() + more)
    return file
