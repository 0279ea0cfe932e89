"""Peak memory of a fresh process that loads an artifact and runs one batch: resident memory, on CUDA the device's.

usage: python -m qguard.latency.memory < SPEC.json    prints bytes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

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


def main() -> None:
    """Read the specification, load, run, print."""
    import numpy as np

    spec = json.load(sys.stdin)
    ids, mask = (np.asarray(x, np.int64) for x in spec["batch"])
    ArmSpec.from_json(spec["arm"]).open_runtime()(ids, mask)
    status = Path("/proc/self/status")
    if spec["arm"]["device"] == "cuda":
        import torch

        print(torch.cuda.max_memory_allocated())
    elif status.exists():
        # not getrusage: on Linux its maximum survives the exec, and is then that of the process which started this one
        line = next(s for s in status.read_text(encoding="ascii").splitlines() if s.startswith("VmHWM"))
        print(int(line.split()[1]) * 1024)
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(peak if sys.platform == "darwin" else peak * 1024)


if __name__ == "__main__":
    main()
