"""A report format: one row a check."""

from __future__ import annotations

import csv
import io
from typing import Any

from qguard import ReportFormat

COLUMNS = ("name", "slice", "value", "outcome")


def render(report: dict[str, Any]) -> bytes:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("precision", "suite", *COLUMNS))
    for run in report["runs"]:
        out.writerows((run["precision"], run["suite"], *(c[k] for k in COLUMNS)) for c in run["checks"])
    return text.getvalue().encode()


FORMAT = ReportFormat(".csv", render)
