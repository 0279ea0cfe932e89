"""The latency of a server: under load, and paired with another server in turn."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qguard.boundary import step
from qguard.config.tables import LoadConfig
from qguard.encoders.runtimes import ENDPOINT
from qguard.endpoints.settings import CLIENT, Endpoint, check_url
from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.gates import Gate
from qguard.gates.check import Check
from qguard.judging import beside
from qguard.judging.endpoint import runtime_of
from qguard.kinds import CROSS_ENCODER
from qguard.latency.check import GATED_TOKENS, Bucket, PlannedTrial, UntimedProblem
from qguard.latency.decision import FAIL, INCONCLUSIVE, UNTIMED, Look, Rule, fewest_for, look_at_quantile
from qguard.latency.load import CLOSED, CONNECTIONS, OPEN, Load, Plan, run_load
from qguard.latency.served import Batch, ServedSpec
from qguard.metrics.bounds import Bound
from qguard.suites.paired import TextPair

if TYPE_CHECKING:
    from qguard.judging.session import Session
    from qguard.judging.target import Target
    from qguard.precisions import Precision

QUANTILES = {"latency.p50": 0.5, "latency.p95": 0.95, "latency.p99": 0.99}
FAILED, THROUGHPUT = "latency.failed", "latency.throughput"
STATED = "latency.stated"  # the stem of the metrics that another load tool states
TABLE = "[tool.qguard.endpoint.{}.load]"
_TEXTS = 256  # that requests are made of: many, so that what a cache in front of the server keeps is not what is timed
_RUNS = 1000  # latencies that pytest-benchmark gets


def settings_of(session: Session, precision: Precision) -> LoadConfig | None:
    """The load of a server; ``None`` if nobody asks for one."""
    table = session.config.endpoint.get(precision.name) if precision.runtime == ENDPOINT else None
    asked = table.load if table else None
    return asked or (LoadConfig() if precision.runtime == ENDPOINT and session.baseline_endpoint else None)


def left_out(session: Session, precision: Precision) -> str:
    """Why no latency of a server is measured; empty if it is."""
    if precision.runtime != ENDPOINT or precision != precision.plain or settings_of(session, precision) is not None:
        return ""
    return f"no load is stated: {TABLE.format(precision.name)}"


def has_stated_bounds(session: Session, precision: Precision) -> bool:
    """Whether the project bounds what another load tool states of a server."""
    settings = settings_of(session, precision)
    return settings is not None and any(bound is not None for _, bound in settings.stated)


def buckets(session: Session, precision: Precision) -> list[Bucket]:
    """What is measured of a server: each load, and the paired trials."""
    settings = settings_of(session, precision)
    if settings is None:
        return []
    paired = settings.fp32 or session.baseline_endpoint is not None
    modes = [*([CLOSED] if settings.clients else []), *([OPEN] if settings.rate else []), *([""] if paired else [])]
    return [Bucket(tokens, texts, mode) for tokens in settings.tokens for texts in settings.texts for mode in modes]


def gates(session: Session, precision: Precision, bucket: Bucket) -> list[Gate]:
    """The gates of one bucket."""
    settings, latency = settings_of(session, precision), session.config.latency
    if settings is None or latency.mode != "gate":
        return []
    if bucket.mode:
        bounds = {**dict(zip(QUANTILES, (settings.p50, settings.p95, settings.p99), strict=True)), FAILED: settings.failed}
        return [Gate(metric, str(bucket), bound) for metric, bound in bounds.items() if bound]
    found = [Gate("latency.speedup", str(bucket), latency.speedup)] if settings.fp32 and latency.speedup else []
    if session.baseline_endpoint is not None and bucket.tokens >= GATED_TOKENS:
        found.append(Gate("latency.regression", str(bucket), latency.regression))
    return found


def refuse(session: Session, precisions: Sequence[Precision]) -> None:
    """A server is compared with what can be compared with it.

    Raises:
        UsageProblem: for a baseline of another kind, and for fp32 on this machine beside a server elsewhere.
    """
    served = [p for p in precisions if p.runtime == ENDPOINT]
    if session.has_baseline and served:
        raise UsageProblem(
            f"{served[0]} is a server: --baseline-artifact and --baseline-python time files; compare it with --baseline-endpoint"
        )
    if session.baseline_endpoint is not None and not served:
        raise UsageProblem("--baseline-endpoint is compared with a server: give --precision NAME of an endpoint")
    for precision in served:
        settings = settings_of(session, precision)
        if session.baseline_endpoint is not None:
            baseline(session, precision)
        if settings is not None and settings.fp32 and precision.endpoint and not _here(precision.endpoint.url):
            raise UsageProblem(
                f"{TABLE.format(precision.name)} fp32 = true serves fp32 on this machine, and {precision} is at "
                f"{precision.endpoint.shown}; times of two machines are not compared. Run qguard there, or leave fp32 out"
            )


def _here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def baseline(session: Session, precision: Precision) -> Endpoint:
    """The server of ``--baseline-endpoint``: one of the configuration, or a URL that is asked as the judged server is.

    No header goes to a URL that was typed: it may hold a secret that is meant for the other server.

    Raises:
        UsageProblem: for what is neither.
    """
    given = session.baseline_endpoint or ""
    if given in session.config.endpoint:
        return session.config.endpoint[given].endpoint(given)
    if ":" not in given:
        raise unknown("endpoint", given, session.config.endpoint)
    check_url(given)
    return replace(precision.server, name="baseline", url=given, headers=())


@contextmanager
def planned(session: Session, target: Target, bucket: Bucket) -> Iterator[tuple[list[PlannedTrial], Batch]]:
    """The paired trials of one bucket, and the texts of their requests; the fp32 server runs meanwhile."""
    settings = settings_of(session, target.precision)
    assert settings is not None
    bounds = {gate.metric: Gate(gate.metric, None, gate.bound) for gate in gates(session, target.precision, bucket)}
    candidate = _spec(session, target, target.precision.server)
    todo = []
    if session.baseline_endpoint is not None:
        other = _spec(session, target, baseline(session, target.precision))
        todo.append(PlannedTrial("latency.regression", bounds.get("latency.regression"), other, candidate))
    if not settings.fp32:
        yield todo, texts_of(session, target, bucket)
        return
    with step(f"serving fp32 of {target.model}"), beside.serving(session, target.model) as endpoint:
        other = _spec(session, target, endpoint)
        yield (
            [PlannedTrial("latency.speedup", bounds.get("latency.speedup"), other, candidate), *todo],
            texts_of(session, target, bucket),
        )


def _spec(session: Session, target: Target, endpoint: Endpoint) -> ServedSpec:
    runtime, settings = runtime_of(session, target.precision, target.model), settings_of(session, target.precision)
    client, model = runtime.client, session.model(target.model)
    of_client = endpoint.prompts == CLIENT
    return ServedSpec(
        endpoint, client.kind, model.name, client.width, model.pipeline.prefix(None) if of_client else "",
        "" if of_client else runtime.prompt(None), max(1, settings.clients if settings else 1),
    )  # fmt: skip


def texts_of(session: Session, target: Target, bucket: Bucket) -> Batch:
    """The texts of some requests: those of the suite, joined and cut to the bucket's tokens, each beginning at another place.

    Raises:
        MeasurementProblem: where the suite has no text, or the model cuts texts before that length.
    """
    tokenizer, count = session.tokenizer(target.precision, target.model), bucket.batch * max(1, _TEXTS // bucket.batch)
    found = cut_to(
        session.suite(target.suite, target.model).texts, bucket.tokens, count, lambda texts: map(len, tokenizer(texts))
    )
    if session.kind(target.model) == CROSS_ENCODER:
        queries = found[:: bucket.batch]
        found = [TextPair(TextPair.of(queries[i // bucket.batch]).first, TextPair.of(t).second) for i, t in enumerate(found)]
    return tuple(tuple(found[i : i + bucket.batch]) for i in range(0, count, bucket.batch))


def cut_to(texts: Sequence[str], tokens: int, count: int, lengths: Callable[[Sequence[str]], Any]) -> list[str]:
    """So many different texts, each as short as it can be with ``tokens`` tokens.

    Args:
        texts: What they are made of.
        tokens: Of each of them, special tokens included.
        count: How many.
        lengths: Texts → their tokens.

    Raises:
        MeasurementProblem: where they cannot be made so long.
    """
    joined = " ".join(text.strip() for text in texts if text.strip())
    if not joined:
        raise MeasurementProblem("the suite has no text to measure latency with")
    longest = 64 * tokens  # letters; a token of text has 4 or 5
    whole = joined * (longest // len(joined) + 2)
    starts = [i * len(joined) // count for i in range(count)]
    low, high = [1] * count, [longest] * count
    for _ in range(math.ceil(math.log2(longest))):
        middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
        enough = [n >= tokens for n in lengths([whole[s : s + m] for s, m in zip(starts, middle, strict=True)])]
        low = [a if yes else min(b, m + 1) for a, b, m, yes in zip(low, high, middle, enough, strict=True)]
        high = [m if yes else b for b, m, yes in zip(high, middle, enough, strict=True)]
    if max(low) == longest:
        raise MeasurementProblem(
            f"expected a model that reads {tokens} tokens, and this one cuts texts before that; give shorter tokens for the load"
        )
    return [whole[s : s + n] for s, n in zip(starts, low, strict=True)]


def measured(session: Session, target: Target, bucket: Bucket, count: int) -> list[tuple[Check, dict[str, Any], list[float]]]:
    """The checks of one load; the first one has the facts and latencies.

    Args:
        session: What is judged.
        target: A server.
        bucket: Its ``mode`` says which load.
        count: Latency gates of the whole run; the probability of a false alarm is shared among them.

    Raises:
        UntimedProblem: where the load could not be sent as planned.
        MeasurementProblem: where nothing was answered.
    """
    settings = settings_of(session, target.precision)
    assert settings is not None
    plan = Plan(
        bucket.mode, settings.seconds, settings.clients, settings.rate, settings.arrivals, settings.seed,
        target.precision.server.timeout,
    )  # fmt: skip
    spec, batch = _spec(session, target, target.precision.server), texts_of(session, target, bucket)

    def send() -> Load:
        requests = spec.requests(batch, settings.clients if bucket.mode == CLOSED else CONNECTIONS)
        try:
            found = run_load(requests, plan)
        finally:
            requests.close()
        if found.unmeasured:
            raise UntimedProblem(f"{UNTIMED}\n    latency[{bucket}]: {found.unmeasured}")
        return found

    with step(f"sending requests to {target.precision.server.shown}"):
        load = send()
        bounds = {gate.metric: gate.bound for gate in gates(session, target.precision, bucket)}
        checks = judged(load, bounds, Rule(0.0).divided(count), target.suite, str(bucket), again=send)
    facts = {"bucket": str(bucket), "source": "qguard", **load.to_json()}
    runs = list(load.latencies)[:: max(1, math.ceil(len(load.latencies) / _RUNS))]
    return [(check, {} if i else facts, [] if i else runs) for i, check in enumerate(checks)]


def judged(load: Load, bounds: dict[str, Bound], rule: Rule, suite: str, bucket: str, again: Callable[[], Load]) -> list[Check]:
    """A load with its bounds. A quantile that fails is measured once more.

    Args:
        load: What was found.
        bounds: By metric; others are reported.
        rule: The probabilities of wrong verdicts.
        suite: For the checks.
        bucket: For the checks.
        again: Sends the same load.
    """
    looks = {m: look_at_quantile(load.latencies, q, _limit(bounds.get(m)), rule) for m, q in QUANTILES.items()}
    notes = {m: _why(found, q, rule) for (m, q), found in zip(QUANTILES.items(), looks.values(), strict=True)}
    if failed := [m for m, found in looks.items() if m in bounds and found.outcome == FAIL]:
        second = again()
        for metric in failed:
            found = look_at_quantile(second.latencies, QUANTILES[metric], _limit(bounds[metric]), rule)
            stands = found.outcome == FAIL
            looks[metric] = replace(looks[metric], outcome=FAIL if stands else INCONCLUSIVE)
            notes[metric] = f"{'confirmed by' if stands else 'not confirmed by'} a repetition: {found.estimate * 1000:.1f} ms"
    checks = [_check(m, found, bounds.get(m), notes[m], load, suite, bucket) for m, found in looks.items()]
    share, bound = load.failed_share, bounds.get(FAILED)
    outcome = "reported" if bound is None else "pass" if bound.holds(share) else FAIL
    total, kinds = load.failed + len(load.latencies), ", ".join(f"{words} ({n})" for words, n in load.failures.items())
    words = f"{load.failed:,} of {total:,} requests failed{f': {kinds}' if kinds else ''}"
    margin = None if bound is None else bound.margin(share)
    checks.append(Check(FAILED, suite, bucket, share, bound, outcome, margin, total, (words[:300],)))
    words = f"{load.throughput:.1f} answers a second; the first request took {load.cold * 1000:.1f} ms"
    checks.append(Check(THROUGHPUT, suite, bucket, load.throughput, None, "reported", None, len(load.latencies), (words,)))
    return checks


def _limit(bound: Bound | None) -> float:
    """A bound in seconds."""
    return math.inf if bound is None else bound.number / 1000


def _why(found: Look, q: float, rule: Rule) -> str:
    """Why a quantile is not decided."""
    if found.outcome != INCONCLUSIVE:
        return ""
    if math.isfinite(found.high):
        return "too near to the bound to tell"
    return f"too few requests: {fewest_for(q, rule)} are needed that are not slow together; give more seconds, or a higher rate"


def _check(metric: str, found: Look, bound: Bound | None, note: str, load: Load, suite: str, bucket: str) -> Check:
    value, low, high = (v * 1000 for v in (found.estimate, found.low, found.high))
    ends = f"{low:.1f}" if math.isfinite(low) else "…", f"{high:.1f}" if math.isfinite(high) else "…"
    words = (
        f"{metric.partition('.')[2]} {value:.1f} ms ({ends[0]} to {ends[1]}), {found.pairs:,} requests in {load.seconds:.1f} s, "
        f"{load.plan}" + (f"; {note}" if note and bound is not None else "")
    )
    outcome = "reported" if bound is None else found.outcome
    margin = None if bound is None else bound.margin(value)
    return Check(metric, suite, bucket, value, bound, outcome, margin, found.pairs, (words,))
