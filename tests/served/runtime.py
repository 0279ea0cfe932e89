"""The runtimes: one that a process answers, to which texts are sent; and one of token ids, opened without a path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from qguard.encoders.onnx import OnnxRuntime
from qguard.encoders.runtimes import RuntimeRecord

# the files of the demonstration, which only the process opens; how it misbehaves, if it does
MODEL, MISTAKE = os.environ.get("SERVED_MODEL", ""), os.environ.get("SERVED_MISTAKE", "")


class Served:
    def __init__(self, model, precision, threads):
        assert (model.name, precision) == ("minilm", "int8")  # which model to ask for
        command = [sys.executable, str(Path(__file__).with_name("server.py")), MODEL, MISTAKE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, texts, roles):
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        return np.asarray(json.loads(self._process.stdout.readline()), np.float32)


RUNTIMES = [
    RuntimeRecord(
        "served", open=Served, takes="texts", files="none", devices=("somewhere",), libraries=("acme-served",), batch=16,
        timed=False,
    ),
    RuntimeRecord(
        "served-ids", open=lambda model, precision, threads: OnnxRuntime(Path(MODEL, "onnx", "model.onnx")), takes="token_ids",
        files="none", devices=("cpu",), libraries=("onnxruntime", "acme-served"), batch=256, timed=False,
    ),
]  # fmt: skip
