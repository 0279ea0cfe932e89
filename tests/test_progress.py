"""Progress bars: drawn where a terminal is, bars within bars as its lines, and silent elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

NESTED = """
import time
from qguard.console.progress import progress
with progress("outer", None):
    with progress("inner", 10, after=0.2) as advance:
        for _ in range(5):
            time.sleep(0.1)
            advance()
        advance(text="renamed", to=9)
        time.sleep(0.2)
print("done")
"""


def drawn(code: str, **environment: str) -> str:
    """What a program writes on a terminal."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} | {"TERM": "xterm"} | environment
    process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait() == 0
    return b"".join(parts).decode()


def test_a_terminal_sees_bars_within_bars():
    text = drawn(NESTED)
    assert "outer" in text
    assert "inner" in text
    assert "renamed" in text
    assert text.count("\x1b[?25l") == 1  # one display hides the cursor, not two that overwrite each other


def test_tests_and_pipes_are_silent():
    assert drawn(NESTED, PYTEST_CURRENT_TEST="one").strip() == "done"
    done = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("done", "")
