"""A fresh process of this interpreter: JSON in, JSON out."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from qguard.errors import MeasurementProblem


def run_fresh(module: str, values: dict[str, Any], what: str) -> Any:
    """Run ``python -m module`` with JSON on its standard input.

    Args:
        module: A module whose ``main`` reads and prints one JSON value.
        values: What it reads.
        what: Subject and verb of the error, for example ``"memory could not be measured"``.

    Returns:
        What it printed.

    Raises:
        MeasurementProblem: when it ends with an error, with its last words.
    """
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise MeasurementProblem(f"{what} in a fresh process: {last_words(done.stderr)}")
    return json.loads(done.stdout)


def last_words(error: str) -> str:
    """The last line of a process's error output, at most 200 characters."""
    return (error.strip().splitlines() or ["no message"])[-1][:200]
