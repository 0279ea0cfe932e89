"""What other load tools state of a server. qguard did not measure it, and says so wherever it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.errors import UsageProblem
from qguard.files import read_json
from qguard.latency.load import CLOSED, CONSTANT, OPEN, POISSON

_AT_ONCE = "all at once"
_LATE = "its latencies begin when a request left, so that what could not leave in time is not seen"


def read(path: Path) -> list[dict[str, Any]]:
    """The loads of a result of ``vllm bench serve`` or GuideLLM, in the shape of :class:`qguard.report.shape.LoadShape`.

    Raises:
        UsageProblem: for another file, one that is damaged, and a result of generated text.
    """
    value = read_json(path, UsageProblem)
    if isinstance(value, dict) and isinstance(value.get("benchmarks"), list):
        return [_guidellm(path, value, benchmark) for benchmark in value["benchmarks"]]
    if isinstance(value, dict) and "request_throughput" in value and "completed" in value:
        return [_vllm(path, value)]
    raise UsageProblem(
        f"{path}: expected a result of vllm bench serve (--save-result) or of GuideLLM (benchmarks.json), found something else"
    )


def _vllm(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    name = _Named(path, "vllm bench serve")
    backend = value.get("backend", value.get("endpoint_type"))
    if "output_throughput" in value:
        raise UsageProblem(
            f"{path}: expected a result of embeddings or reranking, found one of generated text (backend {backend!r}); give "
            "--backend openai-embeddings"
        )
    rate, clients = value.get("request_rate"), value.get("max_concurrency")
    opened = isinstance(rate, int | float)
    # with both a rate and a limit of concurrency, a request may wait at the client
    wait = "_including_client_queue" if f"median_e2el{'_including_client_queue'}_ms" in value else ""
    found = {p: name.optional(value, f"{p}_e2el{wait}_ms") for p in ("p50", "p95", "p99")}
    found["p50"] = name.optional(value, f"median_e2el{wait}_ms") if found["p50"] is None else found["p50"]
    if all(v is None for v in found.values()):
        raise UsageProblem(
            f"{path}: it states no latency; give vllm bench serve --percentile-metrics e2el --metric-percentiles 50,95,99"
        )
    answered, prompts = name.answered(value, "completed"), value.get("num_prompts")
    failed = name.whole(value, "failed") if "failed" in value else None
    if failed is None and isinstance(prompts, int):
        failed = max(0, prompts - answered)
    arrivals = _AT_ONCE
    if opened:
        arrivals = POISSON if value.get("burstiness", 1.0) == 1 else "bursts"
    closed = not opened and isinstance(clients, int)
    said = f", {date}" if isinstance(date := value.get("date"), str) else ""
    return {
        "source": f"vllm bench serve{said}"[:60], "mode": CLOSED if closed else OPEN, "clients": clients if closed else None,
        "rate": name.number(value, "request_rate") if opened else None, "arrivals": None if closed else arrivals,
        "seconds": name.number(value, "duration"), "requests": answered, "failed": failed,
        **{f"{p}_ms": v for p, v in found.items()}, "throughput": name.number(value, "request_throughput"),
        "note": _LATE if opened and isinstance(clients, int) and not wait else "",
    }  # fmt: skip


def _guidellm(path: Path, report: Mapping[str, Any], benchmark: Any) -> dict[str, Any]:
    name = _Named(path, "GuideLLM")
    metrics, config = name.table(benchmark, "metrics"), name.table(benchmark, "config", "args")
    strategy, totals = name.table(config, "strategy"), name.table(metrics, "request_totals")
    kind = strategy.get("type_")
    # measured from the moment at which each request was to leave, where the tool knows it
    scheduled = metrics.get("request_scheduled_latency") is not None
    latency = name.table(metrics, "request_scheduled_latency" if scheduled else "request_latency")
    percentiles = name.table(name.table(latency, "successful"), "percentiles")
    closed = kind in ("synchronous", "concurrent")
    clients = {"synchronous": 1, "concurrent": strategy.get("streams")}.get(str(kind))
    rate = strategy.get("rate")
    version = name.table(report, "metadata").get("guidellm_version", "")
    answered = name.answered(totals, "successful")
    return {
        "source": f"GuideLLM {version}".strip()[:60], "mode": CLOSED if closed else OPEN,
        "clients": clients if isinstance(clients, int) else None, "rate": rate if isinstance(rate, int | float) else None,
        "arrivals": None if closed else {"constant": CONSTANT, "poisson": POISSON}.get(str(kind), _AT_ONCE),
        "seconds": name.number(benchmark, "duration"), "requests": answered,
        "failed": name.whole(totals, "errored") + name.whole(totals, "incomplete"),
        **{f"{p}_ms": name.number(percentiles, p) * 1000 for p in ("p50", "p95", "p99")},
        "throughput": name.number(name.table(name.table(metrics, "requests_per_second"), "successful"), "mean"),
        "note": "" if closed or scheduled else _LATE,
    }  # fmt: skip


class _Named:
    """Reads members of a result, and names the one that is wrong.

    Args:
        path: The file.
        tool: Whose result it is.
    """

    def __init__(self, path: Path, tool: str) -> None:
        self._path, self._tool = path, tool

    def optional(self, value: Mapping[str, Any], key: str) -> float | None:
        """A number that may be missing."""
        return self.number(value, key) if key in value else None

    def number(self, value: Any, key: str) -> float:
        """A finite number, 0 or more."""
        found = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise self._wrong(key, "a number of 0 or more", found)
        return float(found)

    def whole(self, value: Mapping[str, Any], key: str) -> int:
        """A whole number, 0 or more."""
        found = value.get(key)
        if type(found) is not int or found < 0:
            raise self._wrong(key, "a whole number of 0 or more", found)
        return found

    def answered(self, value: Mapping[str, Any], key: str) -> int:
        """A whole number of requests, at least one: of none there are no latencies."""
        if found := self.whole(value, key):
            return found
        raise self._wrong(key, "at least one request that was answered", found)

    def table(self, value: Any, *keys: str) -> Mapping[str, Any]:
        """A JSON object; of several names the first that is there."""
        found = next((value[k] for k in keys if k in value), None) if isinstance(value, Mapping) else None
        if not isinstance(found, Mapping):
            raise self._wrong(keys[0], "a JSON object", found)
        return found

    def _wrong(self, key: str, expected: str, found: Any) -> UsageProblem:
        return UsageProblem(f"{self._path}, as a result of {self._tool}: {key}: expected {expected}, found {repr(found)[:60]}")
