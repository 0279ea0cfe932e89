"""A headless Chromium that computes on request, with a site of this process as all that it can reach."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

from qguard.console.visible import visible
from qguard.errors import MeasurementProblem
from qguard.javascript.frames import HEAD, lengths
from qguard.javascript.site import Site
from qguard.javascript.worker import SCRIPTS, Worker

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_START = 120.0  # seconds until the page asks for work
_FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-domain-reliability", "--disable-default-apps",
    "--disable-dev-shm-usage", "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--mute-audio",
    # no name but the site's address leads anywhere
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--no-proxy-server",
)  # fmt: skip


def browser(named: str = "") -> Path:
    """The program of Chromium or Chrome.

    Args:
        named: Its name or path; empty for the first one of :data:`BROWSERS`.

    Raises:
        MeasurementProblem: where it is absent.
    """
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if found is None:
        raise MeasurementProblem(
            f"expected Chromium or Chrome, found no program {named or ', '.join(BROWSERS)}; install it (Debian: apt-get install "
            "chromium), or name its path: [tool.qguard.javascript] browser"
        )
    return Path(found)


class BrowserWorker(Worker):
    """A page that is open and ready.

    Args:
        files: Path below the site → file; ``page.mjs`` and the modules beside it are always there.
        program: Chromium, its name or path; empty for the first one that is found.
        timeout: Seconds that one answer may take.

    Attributes:
        site: What the page can reach.

    Raises:
        MeasurementProblem: where there is no browser, or it does not open the page.
    """

    def __init__(self, files: Mapping[str, Path], program: str = "", timeout: float = 600.0) -> None:
        super().__init__("the page in the browser", timeout)
        found = browser(program)
        self.site = Site({**{p.name: p for p in SCRIPTS.iterdir()}, **files})
        self._profile = tempfile.TemporaryDirectory(prefix="qguard-browser-", ignore_cleanup_errors=True)
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", *(["--no-sandbox"] if _is_root() else [])]
        # a process of its own ends the browser when this one is gone: Chromium starts several, and outlives its parent
        command = [
            sys.executable,
            "-S",
            str(Path(__file__).with_name("guard.py")),
            str(found),
            *flags,
            f"{self.site.url}page.html",
        ]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )  # fmt: skip
        except OSError as e:
            self.site.close()
            raise MeasurementProblem(f"the browser cannot be started: {e.strerror or e}") from e
        self._ended = weakref.finalize(self, _end, self._process, self.site, self._profile)
        try:
            self._wait()
            self.versions = self.ask("hello").values["versions"]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See :meth:`Worker.close`."""
        self._ended()

    def _wait(self) -> None:
        end = time.monotonic() + _START
        while not self.site.seen.wait(0.2):
            if self._process.poll() is not None:
                raise MeasurementProblem(f"the browser ended with code {self._process.returncode} before it opened its page")
            if time.monotonic() > end:
                raise MeasurementProblem(f"the browser did not open its page in {_START:g} seconds")

    def _exchange(self, data: bytes) -> tuple[bytes, bytes]:
        self.site.send(data)
        end = time.monotonic() + self._timeout
        while (found := self.site.answer(1.0)) is None:
            if not self._ended.alive or self._process.poll() is not None:
                raise EOFError("ended")
            if time.monotonic() > end:
                raise TimeoutError(f"gave no answer in {self._timeout:g} seconds and was ended")
        text, body = lengths(found[: HEAD.size])
        if len(found) != HEAD.size + text + body:
            raise ValueError("sent an answer of another length than it says")
        return found[HEAD.size : HEAD.size + text], found[HEAD.size + text :]

    def _last_words(self, error: Exception) -> str:
        return visible(str(error)[:300])


def _is_root() -> bool:
    """Chromium's sandbox does not start for root, as in containers; the page is of this run's own files."""
    import os

    return hasattr(os, "geteuid") and os.geteuid() == 0


def _end(process: subprocess.Popen[bytes], site: Site, profile: tempfile.TemporaryDirectory[str]) -> None:
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()
    site.close()
    profile.cleanup()
