"""Runs an ONNX file in a process of its own, batch by batch. It needs onnxruntime and numpy only: any interpreter can run it.

usage: python worker.py MODEL.onnx THREADS ENTRIES      (ENTRIES: entries of the session's configuration, a JSON object)

It first says what it is and how the file is fed. A request is 8 bytes of length and an npz of feeds; an answer has this form too:
``output`` holds the values, or ``error`` the words of what failed. ``wanted`` in a request names the output.
"""

import io
import json
import os
import platform
import sys
from typing import Any, BinaryIO

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Load the file, then answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not reach the answers
    try:
        session = open_session(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
    except Exception as e:  # exception types differ by release
        put(answers, hello=np.array(json.dumps(about() | {"error": words(e)})))
        return
    ports = {"inputs": list(map(port, session.get_inputs())), "outputs": list(map(port, session.get_outputs()))}
    put(answers, hello=np.array(json.dumps(about() | ports)))
    requests = sys.stdin.buffer
    while True:
        head = requests.read(8)
        if len(head) < 8:
            return
        with np.load(io.BytesIO(requests.read(int.from_bytes(head, "little"))), allow_pickle=False) as data:
            feeds = {name: data[name] for name in data.files if name != "wanted"}
            wanted = str(data["wanted"])
        try:
            put(answers, output=session.run([wanted], feeds)[0])
        except Exception as e:
            put(answers, error=np.array(words(e)))


def open_session(path: str, threads: int, entries: dict[str, str]) -> Any:
    """A session with the settings that qguard's own has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def about() -> dict[str, Any]:
    """Versions, and the features that NumPy asked this CPU for by the CPUID instruction."""
    core = getattr(np, "_core", None) or np.core  # NumPy 1 has no _core
    features: dict[str, bool] = getattr(core._multiarray_umath, "__cpu_features__", {})
    versions = {"onnxruntime": ort.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"versions": versions, "features": sorted(name for name, there in features.items() if there)}


def port(value: Any) -> dict[str, Any]:
    """An input or output as JSON; a name stands for an axis of any size."""
    return {"name": value.name, "type": value.type, "shape": [n if isinstance(n, int) else None for n in value.shape]}


def words(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def put(answers: BinaryIO, **arrays: Any) -> None:
    """Write one answer."""
    held = io.BytesIO()
    np.savez(held, **arrays)
    answers.write(len(held.getvalue()).to_bytes(8, "little") + held.getvalue())
    answers.flush()


if __name__ == "__main__":
    main()
