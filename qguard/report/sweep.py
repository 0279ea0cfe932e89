"""The page of ``qguard index sweep``: a table, and what each index gives for its time and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qguard.console.visible import visible

if TYPE_CHECKING:
    from qguard.judging.sweep import Row

HEADS = (
    "Precision", "Index", "Vectors", "recall@10", "overlap@10", "filter recall", "p50 ms", "p95 ms", "filled in s", "MB", "Best",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """A row under :data:`HEADS`."""
    m = row.measures
    head = [str(row.target.precision), f"{row.index.store} {row.index.words}"]
    if m is None:
        return [*head, "not measured", *[""] * (len(HEADS) - 3)]
    filters = [f"{items.rows[:, 0].mean():.3f}" for items in m.filtered.values()]
    size = "" if m.bytes is None else f"{m.bytes / 1e6:.2f}"
    return [
        *head, m.vectors, f"{row.recall:.4f}", f"{m.split[2]:.4f}", " ".join(filters), f"{m.p50:.2f}", f"{m.p95:.2f}",
        "" if m.filled is None else f"{m.filled.insert_seconds + m.filled.build_seconds:.1f}", size, "*" if row.best else "",
    ]  # fmt: skip


def page(rows: Sequence[Row], words: Sequence[str]) -> bytes:
    """HTML, UTF-8: one file that loads nothing and runs no script.

    Args:
        rows: Of the sweep.
        words: Lines below the table.
    """
    from markupsafe import Markup, escape

    from qguard.report.as_html import HTML
    from qguard.report.charts import tradeoff

    def text(given: Any) -> Any:
        return escape(visible(str(given)))

    css = Markup((HTML / "report.css").read_text(encoding="utf-8"))
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(h) for h in HEADS)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(text(c)) for c in cells(row))) for row in rows
    )
    charts = Markup("").join(
        Markup("<figure>{}</figure>").format(tradeoff(f"sweep-{i}", points, name, "overlap@10"))
        for i, (name, points) in enumerate(_points(rows).items())
        if points
    )
    said = Markup("").join(Markup("<p>{}</p>").format(text(w)) for w in words)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return str(
        Markup(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            '<meta http-equiv="Content-Security-Policy" content="{}"><title>qguard: sweep of indexes</title><style>{}</style>'
            '</head><body><main><h1>Sweep of indexes</h1><div class="grid">{}</div><div class="scroll"><table><thead><tr>{}</tr>'
            "</thead><tbody>{}</tbody></table></div>{}</main></body></html>\n"
        ).format(policy, css, charts, head, body, said)
    ).encode()


def _points(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """What is drawn against each cost; a cross marks an index that another one beats."""
    known = [r for r in rows if r.measures is not None]

    def drawn(chosen: Sequence[Row], cost: int, unit: float) -> list[dict[str, Any]]:
        return [
            {
                "name": visible(f"{r.target.precision} {r.index.words}"), "x": r.costs[cost] / unit,
                "y": r.measures.split[2] if r.measures else 0.0, "verdict": "pass" if r.best else "beaten",
            }
            for r in chosen
        ]  # fmt: skip

    sized = [r for r in known if r.measures and r.measures.bytes is not None]
    return {"median ms of a search": drawn(known, 0, 1), "MB": drawn(sized, 1, 1e6)}
