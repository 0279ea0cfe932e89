"""Whether the server gives the same after a restart, and another replica of it too."""

from __future__ import annotations

import math
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qguard.console.visible import visible
from qguard.endpoints.client import Client
from qguard.endpoints.fingerprint import TEXTS, Fingerprint
from qguard.endpoints.settings import shown_url
from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.files import dump_json, read_json, write_atomic
from qguard.judging.service.probe import Finding, Probe, shown

_STARTS = 300.0  # seconds that a restart may take
_PAUSE = 0.5


def agree(probe: Probe) -> Finding:
    """Every replica gives the same as the server."""
    values, words = [], []
    for url in probe.endpoint.replicas:
        with Client(replace(probe.endpoint, url=url), probe.kind, probe.client.model, probe.client.width) as client:
            found = probe.each(probe.texts, client)
        value, said = _same(probe, found, probe.alone)
        values.append(value)
        words.append(f"the replica {shown_url(url)} and {probe.endpoint.shown} {said}")
    worst = int(np.argmin(values))
    return Finding(values[worst], len(values) * len(probe.texts), (words[worst],))


def restart(probe: Probe) -> Finding:
    """The server gives the same after it was started again."""
    if probe.endpoint.restart:
        before = probe.alone
        _run(probe.endpoint.restart, probe.folder)
        _wait(probe)
        value, said = _same(probe, probe.each(probe.texts), before)
        return Finding(value, len(probe.texts), (f"before and after the restart command the server's outputs {said}",))
    return _kept(probe, probe.folder / probe.endpoint.fingerprint)


def _same(probe: Probe, a: Any, b: Any) -> tuple[float, str]:
    if a.shape != b.shape:
        return -1.0, f"differ: {a.shape[1]} and {b.shape[1]} values"
    agreement = probe.agreement(a, b)
    worst = int(agreement.argmin())
    return float(agreement[worst]), f"agree to {agreement[worst]:.6f}, the least of {shown(probe.texts[worst])}"


def _run(command: tuple[str, ...], folder: Path) -> None:
    name = visible(command[0])
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=_STARTS, check=False,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, ValueError) as e:
        raise MeasurementProblem(f"the restart command {name!r} cannot be run: {getattr(e, 'strerror', None) or e}") from e
    except subprocess.TimeoutExpired as e:
        raise MeasurementProblem(f"the restart command {name!r} did not end within {_STARTS:.0f} seconds") from e
    if done.returncode:
        said = next((line for line in reversed((done.stderr or done.stdout).splitlines()) if line.strip()), "nothing")
        raise MeasurementProblem(f"the restart command {name!r} ended with {done.returncode}: {visible(said[:200])}")


def _wait(probe: Probe) -> None:
    """Until the server answers again."""
    end = time.monotonic() + _STARTS
    while True:
        try:
            probe.outputs(probe.texts[:1])
            return
        except EndpointProblem as e:
            if time.monotonic() > end:
                raise MeasurementProblem(
                    f"the server does not answer {_STARTS:.0f} seconds after the restart command: {e}"
                ) from e
            time.sleep(_PAUSE)


def _kept(probe: Probe, file: Path) -> Finding:
    """Compare with the fingerprint that an earlier run kept in a file; the first run keeps its own."""
    now = Fingerprint.of(probe.client)
    if not file.exists():
        try:
            write_atomic(file, dump_json({"schema": 1, "asked": probe.client.model, **now.to_json()}))
        except OSError as e:
            raise MeasurementProblem(f"fingerprint {file.name}: cannot be written ({e.strerror or e})") from e
        raise MeasurementProblem(f"no earlier run to compare with; this one's outputs are now kept in {file.name}: run again")
    mend = f"; delete {file.name} to keep this run's outputs instead"
    kept = read_json(file, MeasurementProblem)
    try:
        then = Fingerprint.from_json(kept)
    except (KeyError, TypeError, ValueError) as e:
        raise MeasurementProblem(f"fingerprint {file.name} cannot be read{mend}") from e
    if kept.get("asked") != probe.client.model:
        raise MeasurementProblem(f"fingerprint {file.name} is that of another model's name{mend}")
    if not math.isfinite(apart := then.apart(now)):
        words = f"the server's outputs have {now.width} values, and those kept in {file.name} {then.width}{mend}"
        return Finding(-1, len(TEXTS), (words,))
    agreement = 1 - apart**2 / 2  # the cosine of two vectors of one length that lie so far apart
    words = f"the server's outputs now and those kept in {file.name} agree to {agreement:.6f}{mend}"
    return Finding(agreement, len(TEXTS), (words,))
