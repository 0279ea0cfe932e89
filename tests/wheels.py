"""Wheels and environments for tests without a network: empty ones, and an ONNX Runtime that is this one's with a change."""

from __future__ import annotations

import os
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

SITE = Path(ort.__file__).parent.parent
HERE = {"onnxruntime": ort.__version__, "numpy": np.__version__}
# what a release changes: run as a method of a session, with ``real`` as what this machine's ONNX Runtime gives
SAME = "return real()"
NOISE = """
import numpy as np
out = real()
noise = np.random.default_rng(0).standard_normal(out[0].shape)
return [(out[0] + {share} * out[0].std() * noise).astype(out[0].dtype)]"""
BAD = NOISE.format(share=1.5)
TWICE = "real(); return real()"
BROKEN = "raise ImportError('libfoo.so.1 is not there')"

_SHIM = """
__path__ = [{real!r}]
exec(compile(open({real!r} + "/__init__.py").read(), "onnxruntime", "exec"))
__version__ = {version!r}
_Real = InferenceSession
class InferenceSession(_Real):
    def run(self, *args, **more):
        real = lambda: _Real.run(self, *args, **more)
{body}
"""


def wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    shared: bool = False,
) -> Path:
    """A pure wheel; ``shared`` ones make an environment see what is installed here, behind its own packages."""
    made = {**(files or {}), **({f"{name.replace('-', '_')}_shared.pth": f"{SITE}\n"} if shared else {})}
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {r}\n" for r in requires)]
    made |= {
        f"{info}/METADATA": "".join(lines),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    made[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*made, f"{info}/RECORD"])
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as z:
        for at, text in made.items():
            z.writestr(at, text)
    return path


def runtime(version: str, body: str = SAME, loads: bool = True) -> dict[str, str]:
    """The files of an ONNX Runtime that computes what this one does, with a change."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    shim = _SHIM.format(real=str(SITE / "onnxruntime"), version=version, body=lines)
    return {"onnxruntime/__init__.py": shim if loads else BROKEN}


def interpreter(folder: Path, body: str) -> str:
    """The interpreter of an environment with a changed ONNX Runtime."""
    venv.create(folder, with_pip=False)
    (site,) = [*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")]
    (site / "shared.pth").write_text(f"{SITE}\n")
    (site / "onnxruntime").mkdir()
    (site / "onnxruntime" / "__init__.py").write_text(runtime("0.0.1", body)["onnxruntime/__init__.py"])
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
