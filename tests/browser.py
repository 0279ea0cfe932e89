"""A headless Chromium that stays on this machine, for what a person would see of a page."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def missing() -> str:
    """Why no browser can be started here; empty where one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    if not any(map(shutil.which, BROWSERS)) or not shutil.which("chromedriver"):
        return "neither Chromium nor its driver is installed (Debian: apt-get install chromium chromium-driver)"
    return ""


class Browser:
    """One page at a time, from a file."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def show(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True) -> Browser:
        """Open a page as a window, a phone or a reader of dark pages has it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.requests()
        self.driver.get(page.as_uri())
        return self

    def __call__(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def requests(self) -> list[str]:
        """Every address that pages from files asked for since the last call; a browser's own first page asks for its parts."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [s["request"]["url"] for s in sent if s["documentURL"].startswith("file:")]

    def console(self) -> list[str]:
        """What the page wrote to the console since the last call: errors, and what its policy kept from running."""
        return [e["message"] for e in self.driver.get_log("browser")]

    def picture(self, file: Path, height: int, scale: float = 1, at: str = "") -> None:
        """Write the page as PNG, from the element of id ``at`` or the top: so many of its pixels high, and then scaled."""
        top = self.run("return document.getElementById(arguments[0])?.getBoundingClientRect().top + scrollY || 0", at)
        width = self.run("return innerWidth")
        clip = {"x": 0, "y": max(0, top - 12), "width": width, "height": height, "scale": scale}
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in an empty folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
