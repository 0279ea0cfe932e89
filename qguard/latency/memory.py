"""Peak memory of a fresh process that loads an artifact and runs one batch: resident memory, on CUDA the device's.

usage: python -m qguard.latency.memory < SPEC.json    prints bytes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qguard.files import cache_folder, dump_json, sha256_json, write_kept
from qguard.latency.arms import ArmSpec, Batch
from qguard.latency.fresh import run_fresh

NAME = "memory.ratio"


def peak_bytes(spec: ArmSpec, batch: Batch) -> int:
    """Bytes; on the CPU interpreter and runtime included, as in a service that loads the artifact.

    Raises:
        MeasurementProblem: when the process ends without an answer.
    """
    values = {"arm": spec.to_json(), "batch": [a.tolist() for a in batch]}
    return int(run_fresh("qguard.latency.memory", values, "memory could not be measured"))


def kept_peak(spec: ArmSpec, batch: Batch, files: dict[str, str]) -> int:
    """As :func:`peak_bytes`, of an artifact that qguard built: from the cache, where this machine has measured the same before.

    A peak hardly moves from run to run, other than a time.

    Args:
        spec: The arm.
        batch: Its batch.
        files: Hashes of the artifact's files.
    """
    from qguard.latency.check import fingerprint

    spec_values = {k: v for k, v in spec.to_json().items() if k != "path"}
    shape = [list(a.shape) for a in batch]
    key = sha256_json([files, spec_values, shape, fingerprint(spec.threads, spec.device, spec.runtime)])
    file = cache_folder() / "memory" / f"{key[:32]}.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["bytes"]
        if isinstance(found, int) and found > 0:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = peak_bytes(spec, batch)
    write_kept(file, dump_json({"bytes": found}))
    return found


def main() -> None:
    """Read the specification, load, run, print."""
    import numpy as np

    spec = json.load(sys.stdin)
    runtime = ArmSpec.from_json(spec["arm"]).open_runtime()
    runtime(*(np.asarray(x, np.int64) for x in spec["batch"]))
    if own := getattr(runtime, "peak_bytes", None):  # a worker computes, and not this process
        print(own())
        return
    status = Path("/proc/self/status")
    if spec["arm"]["device"] == "cuda":
        import torch

        print(torch.cuda.max_memory_allocated())
    elif status.exists():
        # not getrusage: on Linux its maximum survives the exec, and is then that of the process which started this one
        line = next(s for s in status.read_text(encoding="ascii").splitlines() if s.startswith("VmHWM"))
        print(int(line.split()[1]) * 1024)
    else:
        print(_peak_elsewhere())


def _peak_elsewhere() -> int:
    """Bytes, on macOS and other systems of its kind, and on Windows."""
    try:
        import resource
    except ModuleNotFoundError:
        return _peak_on_windows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_on_windows() -> int:
    """``PeakWorkingSetSize`` of ``PROCESS_MEMORY_COUNTERS``."""
    import ctypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", ctypes.c_uint32),
            ("PageFaultCount", ctypes.c_uint32),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    kernel: Any = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009 - there on Windows alone
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    counters = Counters(cb=ctypes.sizeof(Counters))
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        raise OSError("Windows does not say how much memory was used")
    return int(counters.PeakWorkingSetSize)


if __name__ == "__main__":
    main()
