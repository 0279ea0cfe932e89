"""The report for GitLab's merge requests: Code Quality, a subset of Code Climate's format.

https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
"""

from __future__ import annotations

import json
from typing import Any

from qguard.console.visible import visible
from qguard.files import sha256_json


def render(report: dict[str, Any]) -> bytes:
    """One issue for each finding that lies in a file of the project; the same failure has the same fingerprint in every run."""
    issues = [
        {
            "description": visible(f"{f['title']}. {f['message'].splitlines()[0]}", ""),
            "check_name": f["check"],
            "fingerprint": sha256_json([f["check"], f["file"], f.get("precision", f["title"])]),
            "severity": "major" if f["check"] == "unmeasured" else "critical",
            "location": {"path": f["file"], "lines": {"begin": f["line"]}},
        }
        for f in report.get("findings", [])
        if f["file"]
    ]
    return (json.dumps(issues, indent=2, ensure_ascii=False) + "\n").encode()
