"""What a reader needs first of a run: what failed, by how much, on which text, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qguard.encoders.runtimes import ENDPOINT
from qguard.families import FAMILIES
from qguard.gates.check import Check
from qguard.judging.cause import Cause
from qguard.kinds import DENSE
from qguard.metrics.bounds import Bound
from qguard.report import advice
from qguard.report.answers import only_speed, sentences
from qguard.report.details import GIVEN
from qguard.vectors.quantized import FLOAT

# what users see comes first, then what explains it
ORDER = tuple(f.name for f in sorted(FAMILIES.values(), key=lambda f: f.lead))


@dataclass(frozen=True)
class Miss:
    """A failed check in words.

    Attributes:
        label: Metric and slice, as a gate's key is written.
        words: Value and bound.
        by: How far the bound is missed; empty where there is no bound.
        more: Failed checks of the same family besides.
    """

    label: str
    words: str
    by: str
    more: int


@dataclass(frozen=True)
class Headline:
    """A run in a few lines.

    Attributes:
        title: Precision, model and suite.
        answers: Accuracy, size and speed one by one; see :mod:`qguard.report.answers`.
        outcome: One sentence.
        misses: The first failed check of each metric family, what users see first.
        worst: The text or pair that shows it best; empty where nothing failed on a text.
        why: The cause, as far as it was looked for.
        steps: What to do.
    """

    title: str
    answers: str
    outcome: str
    misses: tuple[Miss, ...]
    worst: str
    why: str
    steps: tuple[advice.Step, ...]


def name_of(run: Mapping[str, Any]) -> str:
    """``NAME@RUNTIME[+VECTORS]``, as the user types it."""
    vectors = run.get("vectors", FLOAT)
    return f"{run['precision']}@{run['runtime']}" + ("" if vectors == FLOAT else f"+{vectors}")


def label_of(check: Mapping[str, Any]) -> str:
    """Name and slice, as a gate's key is written."""
    return str(check["name"]) + (f"[{check['slice']}]" if check["slice"] else "")


def family_of(check: Mapping[str, Any]) -> str:
    """The metric family."""
    return str(check["name"]).partition(".")[0]


def judged_of(check: Mapping[str, Any]) -> float:
    """The number that the gate judged; see :attr:`qguard.gates.check.Check.judged`."""
    if check.get("on", "value") == "value" or not check.get("interval"):
        return float(check["value"])
    return float(check["interval"][0 if check["on"] == "lower" else 1])


def failed_of(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The failed checks, gates before accepted scores, whole suite before slices."""
    failed = [c for c in run["checks"] if c["outcome"] == "fail"]
    return sorted(failed, key=lambda c: (_rank(c), bool(c.get("accepted")), c["slice"] is not None))


def _rank(check: Mapping[str, Any]) -> int:
    family = family_of(check)
    return ORDER.index(family) if family in ORDER else len(ORDER)


def texts_of(report: Mapping[str, Any], run: Mapping[str, Any]) -> Mapping[str, str]:
    """The texts that a run's details name, by key."""
    found: Mapping[str, str] = report.get("texts", {}).get(run["suite"], {})
    return found


def headline(run: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> Headline:
    """The lines on one run of a report.

    Args:
        run: Of a report, schema 2.
        texts: Those of its suite, by key; without them, and in reports without details, texts are cut shorter.
    """
    failed = failed_of(run)
    gated = sum(1 for c in run["checks"] if c["bound"] or c.get("accepted"))
    misses = {}
    for c in failed:
        family = family_of(c)
        if family not in misses:
            misses[family] = _miss(c, sum(family_of(o) == family for o in failed) - 1)
    if failed:
        outcome = f"{len(failed)} of {gated} checks fail"
    elif run["verdict"] == "unmeasured":
        outcome = f"not measured: {', '.join(run['missing']) or 'nothing was checked'}"
    else:
        outcome = f"all {gated} checks hold"
    title = f"{name_of(run)} · {run['model']} · {run['suite']}"
    return Headline(
        title,
        sentences(run),
        outcome,
        tuple(misses.values()),
        _worst(run, failed, texts or {}),
        _why(run),
        tuple(_steps(run, failed)),
    )


def _miss(c: Mapping[str, Any], more: int) -> Miss:
    words = f"{judged_of(c):.4g}, {c.get('accepted') or f'gate {bound_of(c)}'}"
    by = f"missed by {abs(c['margin']):.2g}" if c["margin"] is not None and not c.get("accepted") else ""
    return Miss(label_of(c), words, by, more)


def _worst(run: Mapping[str, Any], failed: Sequence[Mapping[str, Any]], texts: Mapping[str, str]) -> str:
    """The worst item of the first failing family that has one; timings are no texts."""
    details = run.get("details") or {}
    for c in failed:
        family = family_of(c)
        if family == "ranking" and (queries := (details.get("neighbours") or {}).get("queries")):
            return _query(queries[0], texts)
        if family == "embedding" and (worst := details.get("worst_texts")):
            return f"cosine {worst[0]['cosine']:.4f}: {_quoted(worst[0]['text'], texts)}"
        if family in ("latency", "memory", "artifact"):
            continue
        for other in (c, *(o for o in run["checks"] if family_of(o) == family)):
            if other.get("worst"):
                return str(other["worst"][0])
    return ""


def _query(query: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    was, now = ([key for key, _ in query[side]] for side in ("fp32", "candidate"))
    kept = f"{_quoted(query['text'], texts)} keeps {len(set(was) & set(now))} of its {len(was)} neighbors; the first "
    if was[0] == now[0]:
        return f"{kept}stays {_quoted(was[0], texts)}"
    return f"{kept}was {_quoted(was[0], texts)}, is {_quoted(now[0], texts)}"


def _quoted(key: str, texts: Mapping[str, str], longest: int = 90) -> str:
    text = texts.get(key, key)
    text = text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
    return f"“{text}”" if text.strip() else ascii(text)


def bound_of(check: Mapping[str, Any]) -> Bound | None:
    """The bound that judged a check."""
    return Bound.from_json(check["bound"]) if check["bound"] else None


def cause_of(run: Mapping[str, Any]) -> Cause | None:
    """Why a run failed, where it was looked for."""
    return Cause.from_json(run["cause"]) if run.get("cause") else None


def _why(run: Mapping[str, Any]) -> str:
    return "; ".join(dict.fromkeys(run["errors"])) if run["verdict"] == "unmeasured" else advice.why(cause_of(run))


def _steps(run: Mapping[str, Any], failed: Sequence[Mapping[str, Any]]) -> list[advice.Step]:
    of_server = run["runtime"] == ENDPOINT  # which has no other runtime
    case = advice.Case(
        name=run["precision"], typed=run["precision"] + ("" if of_server else f"@{run['runtime']}"),
        vectors=run.get("vectors", FLOAT),
        suite=run["suite"], failed=[Check.from_json(c) for c in failed], cause=cause_of(run), diagnose=_diagnose(run),
        url=(run.get("endpoint") or {}).get("url", ""),
    )  # fmt: skip
    if failed:
        return advice.steps(case)
    return [advice.measure_again(case, only_speed(run))] if run["verdict"] == "unmeasured" else []


def _diagnose(run: Mapping[str, Any]) -> str:
    """See :func:`qguard.diagnosis.command`; a report does not say where a given file lies."""
    if run["runtime"] != "onnx" or run.get("vectors", FLOAT) != FLOAT or run.get("kind", DENSE) != DENSE:
        return ""
    source = ((run.get("details") or {}).get("provenance") or {}).get("source")
    given = " --artifact PATH" if source == GIVEN else ""
    return f"qguard diagnose --precision {name_of(run)}{given} --model {run['model']} --suite {run['suite']}"
