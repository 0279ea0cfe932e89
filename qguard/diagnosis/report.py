"""A diagnosis as tables for a person and as JSON for a machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from qguard.console.visible import cell, visible
from qguard.diagnosis import Diagnosis
from qguard.diagnosis.activations import LayerError
from qguard.diagnosis.exclusion import Exclusion, Unit

SCHEMA = 1
LISTED = 12


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The stable shape of ``--json``, schema 1; layers in order of their own error."""
    found = {k: getattr(diagnosis, k) for k in ("precision", "model", "suite", "texts", "conclusion", "fault")}
    found |= {"schema": SCHEMA, "failing": list(diagnosis.failing), "notes": list(diagnosis.notes)}
    found["stages"] = [asdict(s) for s in diagnosis.stages]
    found["layers"] = [{**asdict(x), "channels": list(x.channels)} for x in diagnosis.layers]
    e = diagnosis.exclusion
    found["exclusion"] = e and {
        "costs": [{"layer": c.unit.layer, "cosine": c.cosine, "overlap": c.overlap} for c in e.costs],
        "exclude": [u.layer for u in e.chosen],
        "nodes": _nodes(e.chosen),
        "holds": e.holds,
        "left": list(e.left),
        "bytes": dict(zip(("before", "after", "fp32"), e.bytes, strict=True)),
        "speed": e.speed and dict(zip(("before", "after"), e.speed, strict=True)),
    }
    return found


def show(diagnosis: Diagnosis, out: Any, every_layer: bool = False) -> None:
    """Print a diagnosis.

    Args:
        diagnosis: What was found.
        out: A console of rich.
        every_layer: List all layers, not the worst :data:`LISTED`.
    """
    d = diagnosis
    out.print(visible(f"{d.precision}  {d.model}  {d.suite}: {d.conclusion}"), markup=False, soft_wrap=True)
    out.print()
    for s in d.stages:
        out.print(visible(f"  {'✗' if s.fault else ' '} {s.name:<14} {s.words}"), markup=False, soft_wrap=True)
    if d.layers:
        out.print(_layers(d.layers if every_layer else d.layers[:LISTED], d))
    if d.exclusion:
        _show_exclusion(d.exclusion, d.texts, out)
    for title, lines in (("gates that do not hold", d.failing), ("note", d.notes)):
        if lines:
            out.print(f"{title}:")
            for line in lines:
                out.print(visible(f"  {line}"), markup=False, soft_wrap=True)


def _layers(layers: tuple[LayerError, ...], diagnosis: Diagnosis) -> Any:
    from rich.table import Table

    title = f"{len(layers)} of {len(diagnosis.layers)} layers on {diagnosis.texts} texts, by what each adds itself"
    table = Table("layer", "kind", title=title, title_justify="left")
    for head in ("own error", "own SQNR dB", "error", "SQNR dB", "cosine"):
        table.add_column(head, justify="right")
    table.add_column("where in it")
    for x in layers:
        numbers = f"{x.own:.4f}", f"{x.own_sqnr:.1f}", f"{x.error:.4f}", f"{x.sqnr:.1f}", f"{x.cosine:.5f}"
        table.add_row(cell(x.layer), x.kind, *numbers, x.part)
    return table


def _show_exclusion(e: Exclusion, texts: int, out: Any) -> None:
    from rich.table import Table

    table = Table("left in fp32 alone", title=f"what each layer costs, on {texts} texts", title_justify="left")
    for head in ("mean cosine", "overlap@10", "weights"):
        table.add_column(head, justify="right")
    for c in e.costs[:LISTED]:
        table.add_row(cell(c.unit.layer), f"{c.cosine:+.5f}", f"{c.overlap:+.4f}", f"{c.unit.parameters / 1e6:.2f} M")
    out.print(table)
    if not e.chosen:
        return
    before, after, fp32 = (b / 1e6 for b in e.bytes)
    cost = f"size {before:.1f} → {after:.1f} MB (fp32 {fp32:.1f})"
    if e.speed:
        cost += f", speed {e.speed[0]:.2f} → {e.speed[1]:.2f} times fp32's (64 tokens x 1, measured shortly)"
    out.print(f"exclude {len(e.chosen)} layers: {cost}")
    for unit in e.chosen:
        out.print(visible(f"  {unit.layer}"), markup=False, soft_wrap=True)
    out.print(f"as a list for a quantizer of the fp32 export: nodes_to_exclude={_nodes(e.chosen)!r}", markup=False)
    if e.left:
        out.print("gates that still fail then:")
        for line in e.left:
            out.print(visible(f"  {line}"), markup=False, soft_wrap=True)


def _nodes(units: tuple[Unit, ...]) -> list[str]:
    return [node for unit in units for node in unit.nodes]
