"""llama.cpp where it is installed: the npm package node-llama-cpp, and its own quantizer in the libraries that come with it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from qguard.artifacts.artifact import Artifact
from qguard.encoders import Encoder, open_encoder
from qguard.encoders.llamacpp import PACKAGE
from qguard.errors import MeasurementProblem
from qguard.javascript.packages import Packages
from qguard.javascript.settings import JavaScript
from tests.conftest import ROOT
from tests.javascript import without_node

# asks for llama_model_quantize in a process of its own: its parameters begin with threads and the number of a mixture
_QUANTIZE = """
import ctypes, sys
from pathlib import Path
folder, source, target, mixture = Path(sys.argv[1]), *sys.argv[2:]
class Parameters(ctypes.Structure):
    _fields_ = [("threads", ctypes.c_int32), ("mixture", ctypes.c_int32), ("others", ctypes.c_uint8 * 504)]
for pattern in ("libggml-base.*", "libggml.*"):
    ctypes.CDLL(str(next(folder.glob(pattern))), ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(str(next(folder.glob("libllama.*"))))
library.llama_model_quantize_default_params.restype = Parameters
library.llama_model_quantize.restype = ctypes.c_uint32
library.llama_model_quantize.argtypes = ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters)
library.llama_backend_init()
parameters = library.llama_model_quantize_default_params()
parameters.threads, parameters.mixture = 1, int(mixture)
sys.exit(library.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)))
"""


def modules() -> Path:
    """The folder of npm packages that tests use."""
    return Path(os.environ.get("QGUARD_NODE_MODULES") or ROOT / "node_modules")


@cache
def without_llamacpp() -> str:
    """Why llama.cpp cannot be run here; empty where it can."""
    if why := without_node():
        return why
    try:
        Packages(modules()).need(PACKAGE)
    except MeasurementProblem as e:
        return str(e)
    return ""


def encoder_of(artifact: Artifact) -> Encoder:
    """A GGUF artifact in llama.cpp."""
    where = JavaScript(modules())
    return open_encoder("llamacpp", artifact.folder, artifact.pipeline, "fp32", artifact.file, javascript=where)


def quantizer() -> Path | None:
    """The folder of llama.cpp's own libraries; ``None`` where they are not those of Linux."""
    found = sorted(modules().glob("@node-llama-cpp/linux-*/bins/*/libllama.*"))
    return found[0].parent if found and sys.platform == "linux" else None


def quantize(source: Path, target: Path, mixture: int) -> None:
    """What llama.cpp's own quantizer makes of a file in float32.

    Args:
        source: The file.
        target: What is written.
        mixture: The number of a name in :data:`qguard.gguf.mixture.MIXTURES`.
    """
    command = [sys.executable, "-c", _QUANTIZE, str(quantizer()), str(source), str(target), str(mixture)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
