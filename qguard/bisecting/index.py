"""Releases of a package and their installation, from the package index as pip's settings name it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name  # pytest needs packaging too
from packaging.version import InvalidVersion, Version

from qguard.errors import MeasurementProblem, UsageProblem
from qguard.files import sha256_json

# pip's settings → variables of uv with the same meaning
_OF_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "",  # an option without a variable
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
# those that change nothing of what is installed
_IDLE = {
    "disable-pip-version-check", "no-input", "no-color", "quiet", "verbose", "progress-bar", "cache-dir", "retries", "user",
    "require-virtualenv", "no-warn-script-location", "root-user-action", "log", "no-python-version-warning",
    "break-system-packages", "no-cache-dir", "prefer-binary", "config-file",
}  # fmt: skip
# what pip and uv say where no server answered
_UNREACHABLE = re.compile(
    r"connection broken|Failed to establish|Could not fetch URL|NewConnectionError|error sending request|dns error|"
    r"Failed to fetch|timed out|ProxyError|client error \(Connect\)",
    re.IGNORECASE,
)
_NOT_FOR_OTHERS = ("PYTHONPATH", "VIRTUAL_ENV", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
_WAIT = 1800  # seconds of an installation


@dataclass(frozen=True)
class Index:
    """Where packages come from.

    Attributes:
        settings: Of pip, by name, as its files and the environment say them.
        uv: The path of uv; ``None`` where it is not there, or pip has a setting that uv has not.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    uv: str | None = None

    @classmethod
    def here(cls) -> Index:
        """As this environment has it.

        Raises:
            UsageProblem: where neither pip nor uv can be run.
        """
        settings: dict[str, str] = {}
        lines = [line for line in _configured(_pip_variables()).splitlines() if re.match(r"[\w:.-]+='", line)]
        for of in ("global.", "install.", ":env:."):  # the later wins, as in pip
            found = {line.partition("=")[0]: line.partition("=")[2].strip("'") for line in lines}
            settings |= {key.removeprefix(of): value for key, value in found.items() if key.startswith(of)}
        told = all(key in _OF_UV or key in _IDLE for key in (k for k in settings if "." not in k))
        return cls(settings, _uv() if told else None)

    @property
    def key(self) -> str:
        """A hash of what decides which files are found; addresses may hold passwords."""
        return sha256_json({k: v for k, v in self.settings.items() if k not in _IDLE})[:16]

    @property
    def tool(self) -> str:
        """What makes environments."""
        return "uv" if self.uv else "venv and pip"

    def releases(self, package: str, good: str, bad: str, pre: bool = False) -> list[str]:
        """Releases from ``good`` to ``bad``, both included, that this Python can install; backwards where ``bad`` is the older.

        Args:
            package: A distribution.
            good: A release.
            bad: Another one.
            pre: Also pre-releases between them.

        Raises:
            UsageProblem: for a package or a release that is not there, or ``good`` equal to ``bad``.
            MeasurementProblem: where the index cannot be reached.
        """
        ends = _version(good, "--good"), _version(bad, "--bad")
        if ends[0] == ends[1]:
            raise UsageProblem(f"--good and --bad are both {good}; expected two releases of {package} that differ")
        known = self._known(package)
        for option, end in zip(("--good", "--bad"), ends, strict=True):
            if end not in known:
                near = sorted(known, key=lambda v: _distance(v, end))[:4]
                here = f"Python {sys.version_info.major}.{sys.version_info.minor}"
                raise UsageProblem(
                    f"{option} {end}: the package index has no such release of {package} for {here} on this machine; near it are "
                    f"{', '.join(map(str, sorted(near)))}"
                )
        low, high = sorted(ends)
        between = [v for v in sorted(known) if low <= v <= high and (pre or not v.is_prerelease or v in ends)]
        return [str(v) for v in (between if ends[0] == low else between[::-1])]

    def _known(self, package: str) -> set[Version]:
        if not re.fullmatch(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?", package, re.ASCII):
            raise UsageProblem(f"--package: expected the name of a distribution, such as onnxruntime, found {package!r}")
        done = _offered(package, _pip_variables())
        line = re.search(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
        if line:
            return {Version(v.strip()) for v in line[1].split(",")}
        if _UNREACHABLE.search(done.stderr):
            raise MeasurementProblem(
                f"the package index cannot be reached, so that the releases of {package} are not known; check the network and "
                "pip's settings: pip config list"
            )
        raise UsageProblem(
            f"the package index has no release of {package} for this Python; check the name, and pip's settings: pip config list"
        )

    def create(self, folder: Path) -> Path:
        """A new environment of this Python without packages; returns its interpreter.

        Raises:
            MeasurementProblem: when it cannot be made.
        """
        base = getattr(sys, "_base_executable", sys.executable) or sys.executable
        command = [self.uv, "venv", "--quiet", "--no-project", "--no-config", "--python", base, str(folder)] if self.uv else []
        self._run(command or [base, "-m", "venv", "--without-pip", str(folder)], "making an environment")
        return interpreter(folder)

    def install(self, python: Path, requirements: Sequence[str], dependencies: bool = True) -> None:
        """Install into an environment.

        Args:
            python: Its interpreter.
            requirements: As pip takes them.
            dependencies: Also what they need.

        Raises:
            MeasurementProblem: with the installer's own words.
        """
        listed = python.parent.parent.parent / "requirements.txt"  # a command line has an end
        listed.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        alone = [] if dependencies else ["--no-deps"]
        if self.uv:
            offline = self.settings.get("no-index", "").lower() in ("1", "true", "yes", "on")
            command = [self.uv, "pip", "install", "--quiet", "--no-config", "--python", str(python)]
            command += ["--no-index"] if offline else []
        else:
            command = [*pip(), "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
        self._run([*command, *alone, "--requirement", str(listed)], "installing")

    def _run(self, command: Sequence[str], what: str) -> None:
        around = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
        }
        if self.uv:
            # pip takes the best release of all indexes, and uv by default those of the first that has any
            around |= {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PRERELEASE": "if-necessary-or-explicit"}
            around |= {_OF_UV[k]: _listed(k, v) for k, v in self.settings.items() if _OF_UV.get(k)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=around, timeout=_WAIT)
        except subprocess.TimeoutExpired as e:
            raise MeasurementProblem(f"{what} took longer than {_WAIT // 60} minutes") from e
        except OSError as e:
            raise MeasurementProblem(f"{what}: cannot start {Path(command[0]).name}: {e.strerror or e}") from e
        if done.returncode:
            raise MeasurementProblem(f"{what} failed: {_words(done.stderr or done.stdout)}")


def pip() -> list[str]:
    """The command that runs pip.

    Raises:
        UsageProblem: where there is none.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := _uv():
        return [found, "tool", "run", "--quiet", "--python", sys.executable, "pip"]
    raise UsageProblem("bisection asks pip for releases, and this environment has neither pip nor uv; run: python -m ensurepip")


def interpreter(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _pip_variables() -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in os.environ.items() if name.startswith("PIP_"))


@cache
def _configured(variables: frozenset[tuple[str, str]]) -> str:
    """pip's settings; it takes a second to start."""
    return subprocess.run([*pip(), "config", "list"], capture_output=True, text=True, check=False).stdout


@cache
def _offered(package: str, variables: frozenset[tuple[str, str]]) -> subprocess.CompletedProcess[str]:
    """What pip finds of a package."""
    command = [*pip(), "index", "versions", "--pre", "--retries", "1", "--disable-pip-version-check", "--", package]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@cache
def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv.exe" if os.name == "nt" else "uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _version(text: str, option: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise UsageProblem(f"{option}: expected a release such as 1.24.4, found {text!r}") from None


def _distance(a: Version, b: Version) -> tuple[int, ...]:
    pairs = zip((*a.release, 0, 0, 0)[:3], (*b.release, 0, 0, 0)[:3], strict=True)
    return tuple(abs(x - y) for x, y in pairs)


def _listed(name: str, value: str) -> str:
    """A value as uv takes it; several are separated by white space in pip."""
    return ",".join(value.split()) if name == "find-links" else " ".join(value.split())


def _words(said: str) -> str:
    """What an installer says, in one line, without passwords of addresses and the name of a home folder."""
    from qguard.report.details import without_home

    if _UNREACHABLE.search(said):
        return "the package index cannot be reached"
    lines = [re.sub(r"^(?:[^\w\s(]|\s|ERROR:|error:|hint:)+", "", line).strip() for line in said.splitlines()]
    told = " ".join(line for line in lines if line and not line.startswith(("WARNING", "warning", "[notice]")))
    told = re.sub(r"(\w+://)[^/\s@]+@", r"\1", told)
    words: str = without_home(told)
    return words[:400] or "it said nothing"


def plain(name: str) -> str:
    """A distribution's name, as indexes compare names."""
    return str(canonicalize_name(name))
