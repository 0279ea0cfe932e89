"""What people read: the summary table and the text of a failure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qguard.gates.check import Check
from qguard.judging.cause import Cause
from qguard.metrics.truncation import OVERLAP
from qguard.report.advice import PAIRED, Case, Step, judged, left_out, moved_gates, shadowed_gates, steps, told, too_slow, why
from qguard.report.answers import sentences
from qguard.report.cpus import in_words as of_cpu
from qguard.report.headline import bound_of, cause_of, headline, label_of, texts_of
from qguard.report.indexes import in_words
from qguard.report.loads import words
from qguard.vectors.quantized import FLOAT

if TYPE_CHECKING:
    from qguard.precisions import Precision

_LISTED = 5  # texts that a golden leaves out


def failure_text(
    precision: Precision,
    suite: str,
    checks: list[Check],
    changed: list[str],
    holds: str = "",
    fp32: str = "fp32@torch",
    cause: Cause | None = None,
    diagnose: str = "",
    items: str = "",
) -> str:
    """The text of a failed gate test.

    The first ten lines fit 80 columns. They say what failed, by how much, on which text, why, and what to do. The values follow.

    Args:
        precision: The judged precision.
        suite: Name of the suite.
        checks: All checks of one metric family; at least one of them failed.
        changed: Versions that changed since the golden was recorded.
        holds: What the artifact's files compute; see :func:`qguard.judging.artifact.summary`.
        fp32: The precision that repeats the golden's computation: in torch, or in ONNX for a model that comes as ONNX alone.
        cause: Drift of the stack or loss by quantization; see :func:`qguard.judging.cause.find_cause`.
        diagnose: The command that shows which stage and layer lose accuracy, if there is one.
        items: Source of the judged items, if it is not the suite.
    """
    failed = sorted((c for c in checks if c.outcome == "fail"), key=lambda c: (c.accepted is not None, c.slice is not None))
    url = precision.endpoint.shown if precision.endpoint else ""
    typed = str(replace(precision, vectors=FLOAT))
    case = Case(precision.label, typed, precision.vectors, suite, failed, cause, diagnose, fp32, url)
    first = failed[0]
    more = f" (+{len(failed) - 1} more)" if len(failed) > 1 else ""
    end = "" if first.on == "value" else f" ({first.on} end; value {first.value:.4f})"
    by = "" if first.margin is None or first.accepted else f", missed by {abs(first.margin):.4f}"
    lines = [f"{precision} {first.label} {first.judged:.4f}{end}, {first.accepted or f'gate {first.bound}'}{by}{more}"]
    if by and len(lines[0]) > 80:
        lines = [lines[0].replace(by, ""), f"  {by[2:]}"]
    worst = next(
        (c.worst[0] for c in (*failed, *checks) if c.worst and c.name.partition(".")[0] == first.name.partition(".")[0]), ""
    )
    lines += _wrapped("worst:  ", worst, 2) + _wrapped("why:    ", why(cause))
    todo = steps(case)
    for step in [*todo[:1], *todo[1:][-1:]]:  # the nearest, and what would pass
        lines += _step(step)
    lines.append("")
    shown = [c for c in checks if c.slice is None or c.outcome == "fail"]
    width = max(len(c.label) for c in shown)
    for c in shown:
        if c.accepted:
            lines += [f"  ✗ {c.label:<{width}} {c.accepted}"] if c.outcome == "fail" else []
        else:
            margin = "" if c.margin is None else f"margin {c.margin:+.4f}"
            mark = {"pass": "  ", "fail": "✗ ", "reported": "· "}[c.outcome]
            row = f"  {mark}{c.label:<{width}} {c.value:>9.4f}  {c.bound or ''!s:<10} {margin:<15}{ends(c.interval)}"
            lines.append(row.rstrip())
    lines += [f"    {c.label}: {c.unresolved}" for c in checks if c.unresolved and (c.slice is None or c.outcome == "fail")]
    lines += [f"    {c.label}: its default bound is moved {c.origin}" for c in failed if c.origin]
    for c in checks:
        if c.worst and c.slice is None:
            lines += ["", f"worst by {c.name} ({c.items} items of {items or suite}):", *(f"    {w}" for w in c.worst)]
    if changed:
        lines += ["", "changed since the golden: " + ", ".join(changed)]
    if holds:
        lines += ["", f"the file computes: {holds}"]
    return "\n".join(lines)


def _step(step: Step) -> list[str]:
    """What to do; a command stays whole, on a line of its own where it must, so that it can be copied."""
    words, command = step.words[0].lower() + step.words[1:], step.command
    if command and len(words) + len(command) + 12 > 80:
        return [*_wrapped("do:     ", f"{words}:"), f"          {command}"]
    return [f"  do:     {words}: {command}"] if command else _wrapped("do:     ", words)


def _wrapped(name: str, text: str, most: int | None = None) -> list[str]:
    """Named text within 80 columns, on at most so many lines: a text that is cut stands whole below."""
    if not text:
        return []
    return textwrap.wrap(
        " ".join(text.split()), 80, initial_indent=f"  {name}", subsequent_indent=" " * 10, break_long_words=most is not None,
        break_on_hyphens=False, max_lines=most, placeholder=" …",
    )  # fmt: skip


def ends(interval: Any) -> str:
    """A 95 % interval behind its value, in a column of its own; blanks where there is none."""
    return f" {f'({interval[0]:.4f} to {interval[1]:.4f})' if interval else '':<18}"


def latency_text(precision: str, checks: list[Check]) -> str:
    """One paragraph a trial: bound and outcome first, then medians, ratio, interval and pairs."""
    from qguard.latency.check import not_measured, undecided

    order = sorted(checks, key=lambda c: c.outcome != "fail")
    lines = [not_measured("".join(c.worst[0] for c in order if undecided(c)))] if any(map(undecided, order)) else []
    for c in order:
        gate = f", gate {c.bound}" if c.bound else ""
        lines += [f"{precision} {c.label} {c.value:.2f}{gate}: {c.outcome.upper()}", f"    {c.worst[0]}"]
    if order and order[0].outcome == "fail":
        lines += _step(too_slow(precision, [c for c in order if c.outcome == "fail"]))
    return "\n".join(lines)


def summary_lines(report: dict[str, Any]) -> list[str]:
    """One table, precision × suite × check, gated values only; slices only where they fail."""
    from qguard.accepted import moved
    from qguard.latency.check import interval_text

    lines = []
    before = None
    for run in report["runs"]:
        kind = "" if run["vectors"] == FLOAT else f"+{run['vectors']}"
        head = f"{run['precision']}@{run['runtime']}{kind}  {run['model']}  {run['suite']}"
        size = run.get("artifact", {}).get("bytes")
        lines.append(f"{head}: {run['verdict'].upper()}" + (f"  ({size / 1e6:.1f} MB)" if size else ""))
        lines += _wrapped("", sentences(run)) + _lead(run, texts_of(report, run))
        for c in run["checks"]:
            if c["bound"] and not _latency(c) and not c.get("accepted") and (c["slice"] is None or c["outcome"] == "fail"):
                name = c["name"] + (f"[{c['slice']}]" if c["slice"] else "")
                mark = "ok  " if c["outcome"] == "pass" else "FAIL"
                on = "" if c["on"] == "value" else f" on the {c['on']} end"
                resolved = "" if c["detectable"] is None else f", resolves {c['detectable']:.2g}"
                lines.append(
                    f"  {mark} {name:<30} {c['value']:>9.4f}{ends(c['interval'])}  {bound_of(c)!s:<11} margin {c['margin']:+.4f}"
                    f"{on}{resolved}"
                )
                lines += [f"       {c['unresolved']}"] if c["unresolved"] else []
        slices = [c for c in run["checks"] if c["bound"] and not _latency(c) and c["slice"] and c["outcome"] == "pass"]
        if slices:
            low = min(slices, key=lambda c: c["margin"])
            lines.append(
                f"  ok   {len(slices)} slice checks; tightest {low['name']}[{low['slice']}] {low['value']:.4f}, "
                f"margin {low['margin']:+.4f}"
            )
        lines += _accepted(run["checks"])
        for fact in run["latency"]:
            mark = {"pass": "ok  ", "fail": "FAIL", "reported": "    "}.get(fact["outcome"], "??  ")
            name = f"{fact['metric']}[{fact['bucket']}]"
            bound = next((bound_of(c) for c in run["checks"] if label_of(c) == name), None) or ""
            lines.append(
                f"  {mark} {name:<30} {fact['ratio']:>9.2f}  {bound!s:<11} {interval_text(fact['interval'])}, "
                f"{fact['baseline_ms']:.2f} ms against {fact['candidate_ms']:.2f} ms"
                + ("  SUSPICIOUS: faster than quantization explains" if fact["suspicious"] else "")
            )
        lines += [
            *_of_loads(run),
            *(line for found in run.get("index", ()) for line in _wrapped_index(found)),
            *(line for found in run.get("cpus", ()) for line in _wrapped_whole(f"cpu {of_cpu(found)}")),
            *(
                f"  {'FAIL' if c['outcome'] == 'fail' else '    '} {c['worst'][0]}"
                for c in run["checks"]
                if c["name"] == "latency.trend" and (moved(c["value"]) or c["outcome"] == "fail")
            ),
        ]
        if stored := run.get("stored"):
            lines.append(
                f"       {stored['bytes']} bytes per vector, float32 {stored['float32_bytes']}; "
                f"latency is measured for {stored['latency_of']}: vectors are quantized or cut after the model ran"
            )
            whole = {c["name"]: c["value"] for c in run["checks"] if c["slice"] is None}
            if all(name in whole for name in OVERLAP):
                alone, both = (whole[name] for name in OVERLAP)
                words = f"{alone:.4f} by fewer dimensions alone, {both:.4f} in all; other values compare with fp32 cut alike"
                lines.append(f"       overlap@10 with whole fp32: {words}")
            if ranges := stored["calibration"]:
                lines.append(f"       ranges from {ranges['texts']} {ranges['part']} of {ranges['suite']} in fp32")
        if cause := cause_of(run):
            lines.append(f"       {told(cause)}")
        lines += _effects(run["checks"])
        said = judged(run) if run.get("judged") != before else []
        before = run.get("judged")  # of several suites in turn it is said once
        for text in said:
            lines += textwrap.wrap(text, 120, initial_indent="  judged: ", subsequent_indent=" " * 8, break_on_hyphens=False)
        for text in [*moved_gates(run["checks"]), *shadowed_gates(run["checks"])]:
            lines += textwrap.wrap(text, 120, initial_indent="  gates: ", subsequent_indent=" " * 7, break_on_hyphens=False)
        for text in left_out(run):
            lines += textwrap.wrap(text, 120, initial_indent="  left out: ", subsequent_indent=" " * 7)
        if texts := run.get("texts_left_out"):
            lines.append(f"  texts of {run['suite']} that the golden leaves out and no gate judges: {len(texts)}")
            lines += [f"       {t}" for t in texts[:_LISTED]]
            lines += [f"       and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
        lines += [f"  not measured: {', '.join(run['missing'])}"] if run["missing"] else []
        lines += [f"  {e}" for e in dict.fromkeys(run["errors"])]
    return lines


def _lead(run: dict[str, Any], texts: Mapping[str, str]) -> list[str]:
    """The first lines on a run that does not pass: what failed, by how much, on which text, why, and what to do."""
    if run["verdict"] == "pass":
        return []
    head = headline(run, texts)
    lines = []
    for miss in head.misses[:2]:  # the next step stands in the first ten lines
        more = f" (+{miss.more} more)" if miss.more else ""
        lines += _wrapped("FAIL    ", f"{miss.label} {miss.words}{f', {miss.by}' if miss.by else ''}{more}")
    if not head.misses:
        lines += _wrapped("", head.outcome)
    lines += _wrapped("worst:  ", head.worst, 2) + _wrapped("why:    ", head.why if head.misses else "", 3)
    for step in head.steps[:2]:
        lines += _step(step)
    return [*lines, ""]


def _accepted(checks: list[dict[str, Any]]) -> list[str]:
    """Every score that fell below its accepted one; the others in one line."""
    held = [c for c in checks if c.get("accepted")]
    lines = [f"  FAIL {c['name']:<30} {c['accepted']}" for c in held if c["outcome"] == "fail"]
    if good := [c for c in held if c["outcome"] == "pass"]:
        lines.append(f"  ok   {len(good)} of {len(held)} accepted scores hold within their noise")
    return lines


def _effects(checks: list[dict[str, Any]]) -> list[str]:
    """Effects that pass their gates but are worth knowing: vectors that depend on the batch, products that could overflow."""
    values = {c["name"]: c for c in checks if c["slice"] is None}
    lines = []
    batch = values.get("invariance.batch_cosine_min")
    if batch and batch["value"] < 0.999:
        lines.append(
            f"       a text's vector depends on its batch: lowest cosine {batch['value']:.4f} between encoding it alone and in "
            f"a batch ({batch['items']} texts)"
        )
    overflow = values.get("artifact.saturation")
    if overflow and overflow["value"] > 0 and overflow["outcome"] == "reported":
        lines.append(
            f"       on x86 without VNNI {overflow['value']:.0%} of output channels could overflow 16 bits; run there with "
            f"session.x64quantprecision=1"
        )
    return lines


def _wrapped_index(found: dict[str, Any]) -> list[str]:
    """An index, with the loss of each part."""
    return _wrapped_whole(f"index {found['name']}: {in_words(found)}")


def _wrapped_whole(text: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent="       ", subsequent_indent=" " * 9, break_on_hyphens=False)


def _of_loads(run: dict[str, Any]) -> list[str]:
    """Every load, and their gated values."""
    gated = [c for c in run["checks"] if _latency(c) and c["name"] not in PAIRED and c["bound"]]
    marks = {"pass": "ok  ", "fail": "FAIL"}
    return [
        *(f"       {words(load)}" for load in run.get("load", ())),
        *(f"  {marks.get(c['outcome'], '??  ')} {label_of(c):<30} {c['value']:>9.4g}  {bound_of(c)}" for c in gated),
    ]


def _latency(check: dict[str, Any]) -> bool:
    return str(check["name"]).startswith("latency.")
