"""Runs a program and all that it starts, until it ends or standard input does. Needs nothing but Python.

usage: python guard.py PROGRAM ARGUMENTS
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """Start it in a group of its own, which is ended as a whole."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Ctrl-C reaches the whole group; the end of standard input is what counts
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        _end(process)

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    _end(process)
    return code if 0 <= code < 256 else 1


def _end(process: "subprocess.Popen[bytes]") -> None:
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
