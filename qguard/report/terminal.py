"""What people read: the summary table and the text of a failure."""

from __future__ import annotations

from typing import Any

from qguard.gates import Check
from qguard.vectors import FLOAT


def failure_text(
    precision: str,
    suite: str,
    checks: list[Check],
    changed: list[str],
    holds: str = "",
    fp32: str = "fp32@torch",
    cause: str = "",
    diagnose: str = "",
) -> str:
    """Precision, metric, value and bound first; then every metric with its margin, the worst items and what comes next.

    Args:
        precision: As the user types it.
        suite: Its name.
        checks: Of one metric family, at least one of them failed.
        changed: Versions that moved since the golden.
        holds: What the artifact's files compute; see :func:`qguard.metrics.artifact.summary`.
        fp32: The precision that repeats the golden's computation: in torch, or in ONNX for a model that is nothing else.
        cause: Drift of the stack or loss by quantization, in words; see :func:`qguard.drift.find_cause`.
        diagnose: The command that says which stage and layer lose it, where there is one.
    """
    failed = sorted((c for c in checks if c.outcome == "fail"), key=lambda c: (c.accepted is not None, c.slice is not None))
    first = failed[0]
    more = f" (+{len(failed) - 1} more)" if len(failed) > 1 else ""
    end = "" if first.on == "value" else f" ({first.on} end; value {first.value:.4f})"
    lines = [f"{precision} {first.label} {first.judged:.4f}{end}, {first.accepted or f'gate {first.bound}'}{more}", ""]
    if cause:
        lines += [cause, ""]
    for c in checks:
        if c.accepted:
            lines += [f"  ✗ {c.label:<34} {c.accepted}"] if c.outcome == "fail" else []
        elif c.slice is None or c.outcome == "fail":
            margin = "" if c.margin is None else f"margin {c.margin:+.4f}"
            mark = {"pass": "  ", "fail": "✗ ", "reported": "· "}[c.outcome]
            lines.append(f"  {mark}{c.label:<34} {c.value:>9.4f}{ends(c.interval)}  {c.bound or '':<12} {margin}")
    lines += [f"    {c.label}: {c.unresolved}" for c in checks if c.unresolved and (c.slice is None or c.outcome == "fail")]
    for c in checks:
        if c.worst and c.slice is None:
            lines += ["", f"worst by {c.name} ({c.items} items of {suite}):", *(f"    {w}" for w in c.worst)]
    if changed:
        lines += ["", "changed since the golden: " + ", ".join(changed)]
    if holds:
        lines += ["", f"the file computes: {holds}"]
    op = (first.bound or "").split()[0]
    model, plus, vectors = precision.partition("+")
    key = model.partition("@")[0]
    question = f"is it the quantization? pytest --precision {fp32} --qguard-suite {suite} tells drift of the stack from loss"
    if plus:
        key = f'"{key}+{vectors}"'
        question = f"is it the vectors? pytest --precision {model},fp32+{vectors} --qguard-suite {suite} tells both losses apart"
    if first.accepted:
        lines += ["", f"the gate holds, the accepted score does not; to accept less: {_lower(precision, suite)}"]
    else:
        lines += ["", f"would pass at: {first.label} {op} {first.judged:.4f}   ([tool.qguard.gates.{key}])"]
    if not first.name.startswith(("artifact.", "robustness.")) and (plus or not cause):
        lines.append(question)
    if diagnose and not first.name.startswith("artifact."):
        lines.append(f"where is it lost? {diagnose}")
    return "\n".join(lines)


def ends(interval: Any) -> str:
    """A 95 % interval behind its value, in a column of its own; blanks where there is none."""
    return f" {f'({interval[0]:.4f} to {interval[1]:.4f})' if interval else '':<18}"


def _lower(precision: str, suite: str) -> str:
    return f'qguard accept --precision {precision} --suite {suite} --lower --reason "…"'


def latency_text(precision: str, checks: list[Check]) -> str:
    """One paragraph a trial: bound and outcome first, then medians, ratio, interval and pairs."""
    order = sorted(checks, key=lambda c: c.outcome != "fail")
    lines = []
    for c in order:
        gate = f", gate {c.bound}" if c.bound else ""
        lines += [f"{precision} {c.label} {c.value:.2f}{gate}: {c.outcome.upper()}", f"    {c.worst[0]}"]
    return "\n".join(lines)


def summary_lines(report: dict[str, Any]) -> list[str]:
    """One table, precision × suite × check, gated values only; slices only where they fail."""
    from qguard.latency.check import interval_text

    lines = []
    for run in report["runs"]:
        kind = "" if run["vectors"] == FLOAT else f"+{run['vectors']}"
        head = f"{run['precision']}@{run['runtime']}{kind}  {run['model']}  {run['suite']}"
        size = run.get("artifact", {}).get("bytes")
        lines.append(f"{head}: {run['verdict'].upper()}" + (f"  ({size / 1e6:.1f} MB)" if size else ""))
        for c in run["checks"]:
            if c["bound"] and not _latency(c) and not c.get("accepted") and (c["slice"] is None or c["outcome"] == "fail"):
                name = c["name"] + (f"[{c['slice']}]" if c["slice"] else "")
                mark = "ok  " if c["outcome"] == "pass" else "FAIL"
                on = "" if c["on"] == "value" else f" on the {c['on']} end"
                resolved = "" if c["detectable"] is None else f", resolves {c['detectable']:.2g}"
                lines.append(
                    f"  {mark} {name:<30} {c['value']:>9.4f}{ends(c['interval'])}  {c['bound']:<11} margin {c['margin']:+.4f}"
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
            bound = next((c["bound"] for c in run["checks"] if f"{c['name']}[{c['slice']}]" == name), None) or ""
            lines.append(
                f"  {mark} {name:<30} {fact['ratio']:>9.2f}  {bound:<11} {interval_text(fact['interval'])}, "
                f"{fact['baseline_ms']:.2f} ms against {fact['candidate_ms']:.2f} ms"
                + ("  SUSPICIOUS: faster than quantization explains" if fact["suspicious"] else "")
            )
        lines += [
            f"  {'FAIL' if c['outcome'] == 'fail' else '    '} {c['worst'][0]}"
            for c in run["checks"]
            if c["name"] == "latency.trend" and ("moved" in c["worst"][0] or c["outcome"] == "fail")
        ]
        if stored := run.get("stored"):
            lines.append(
                f"       {stored['bytes']} bytes a vector, float32 {stored['float32_bytes']}; "
                f"latency is that of {stored['latency_of']}: vectors are quantized after the model ran"
            )
            if ranges := stored["calibration"]:
                lines.append(f"       ranges of {ranges['texts']} {ranges['part']} of {ranges['suite']}, fp32")
        if run.get("cause"):
            lines.append(f"       {run['cause']}")
        lines += _effects(run["checks"])
        lines += [f"  left out: {', '.join(f'{n} (--qguard-{n}=off)' for n in run['left_out'])}"] if run.get("left_out") else []
        lines += [f"  not measured: {', '.join(run['missing'])}"] if run["missing"] else []
        lines += [f"  {e}" for e in dict.fromkeys(run["errors"])]
    return lines


def _accepted(checks: list[dict[str, Any]]) -> list[str]:
    """Every score that fell below its accepted one; the others in one line."""
    held = [c for c in checks if c.get("accepted")]
    lines = [f"  FAIL {c['name']:<30} {c['accepted']}" for c in held if c["outcome"] == "fail"]
    if good := [c for c in held if c["outcome"] == "pass"]:
        lines.append(f"  ok   {len(good)} of {len(held)} accepted scores are held, within their noise")
    return lines


def _effects(checks: list[dict[str, Any]]) -> list[str]:
    """What holds its gate and still is worth knowing: vectors that depend on the batch, products that could overflow."""
    values = {c["name"]: c for c in checks if c["slice"] is None}
    lines = []
    batch = values.get("invariance.batch_cosine_min")
    if batch and batch["value"] < 0.999:
        lines.append(
            f"       a text's vector depends on its batch: cosine down to {batch['value']:.4f} between alone and in a batch "
            f"({batch['items']} texts)"
        )
    overflow = values.get("artifact.saturation")
    if overflow and overflow["value"] > 0 and overflow["outcome"] == "reported":
        lines.append(
            f"       on x86 without VNNI {overflow['value']:.0%} of output channels could overflow 16 bits; there, run with "
            f"session.x64quantprecision=1"
        )
    return lines


def _latency(check: dict[str, Any]) -> bool:
    return str(check["name"]).startswith("latency.")
