"""CPUs that QEMU emulates: what runs a program on one, and what such a CPU really has.

``qemu-user`` translates the instructions of one program, so that nothing but this program sees the other CPU. A feature that QEMU
cannot translate is taken from the CPU, with no more than a warning: what then runs is another CPU of the same name. Where such a
feature is arithmetic, the name is refused; the others are told.

An x86-64 CPU runs the Python of this environment. An AArch64 one needs a Python for AArch64 with NumPy and ONNX Runtime, in a
folder of its own.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qguard.errors import MeasurementProblem, UsageProblem
from qguard.machine.known_cpus import ARM, DECIDES, KNOWN, X86, known, machine_of, of_short

PROGRAM = {X86: "QGUARD_QEMU", ARM: "QGUARD_QEMU_AARCH64"}  # the variables that name other programs
ROOT = "QGUARD_AARCH64_ROOT"  # the folder in which ``usr/bin/python3.X`` is a Python for AArch64
_WAIT = 120.0  # seconds that a program of a moment may take on a busy machine
_WARNING = re.compile(r"TCG doesn't support requested feature: CPUID[^ ]*\.([^ .]+) \[bit")
# of features as QEMU names them: what computes; what else is missing steers memory, interrupts or power
_ARITHMETIC = re.compile(r"^(avx|amx|sse|ssse|pni$|fma|f16c|xop|bmi|abm|popcnt|movbe|mmx|3dnow$|3dnowext$)")
_ASKS = (
    "import json, numpy as np, onnxruntime; core = getattr(np, '_core', None) or np.core; "
    "found = core._multiarray_umath.__cpu_features__; print(json.dumps({'features': sorted(k for k in found if found[k]), "
    "'versions': {'onnxruntime': onnxruntime.__version__, 'numpy': np.__version__}}))"
)
_DEBIAN = "on Debian and Ubuntu: apt-get install qemu-user-static"


@dataclass(frozen=True)
class Told:
    """What a Python on an emulated CPU says.

    Attributes:
        features: Instruction sets that NumPy finds, by its own names, sorted.
        versions: Of ONNX Runtime and NumPy.
    """

    features: tuple[str, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Emulator:
    """A program of QEMU.

    Attributes:
        program: What is started.
        version: As it tells it.
        models: The CPUs that it knows.
        machine: Their architecture.
        python: The Python that runs on them.
        options: What else it is started with.
    """

    program: str
    version: str
    models: tuple[str, ...]
    machine: str = X86
    python: str = sys.executable
    options: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The program's file."""
        return Path(self.program)

    def model(self, name: str) -> str:
        """The CPU that a user means, as QEMU names it: upper and lower case are equal, and some have short names.

        Raises:
            UsageProblem: for one that it does not know.
        """
        wanted = of_short(name)
        if found := next((m for m in self.models if m.lower() == wanted), None):
            return found
        have = {m.lower() for m in self.models}
        usual = ", ".join(k.model for k in KNOWN if k.model.lower() in have)
        raise UsageProblem(
            f"--cpu {name}: QEMU {self.version} has no such CPU; expected one of {usual}, or another name that this prints: "
            f"{self.path.name} -cpu help"
        )

    def started(self, model: str) -> tuple[str, ...]:
        """What starts Python on a CPU."""
        return (self.program, *self.options, "-cpu", model, self.python)

    def missing(self, model: str) -> tuple[str, ...]:
        """The features that a real CPU has and this emulator takes away, as QEMU names them.

        Raises:
            MeasurementProblem: when Python does not start on it.
            UsageProblem: when one of them is arithmetic: what runs is then not this CPU.
        """
        gone = tuple(dict.fromkeys(_WARNING.findall(self._run(model, ("-S", "-c", "pass")).stderr)))
        if wrong := [feature for feature in gone if _ARITHMETIC.match(feature)]:
            raise UsageProblem(self._refused(model, wrong))
        return gone

    def told(self, model: str) -> Told:
        """What NumPy finds on a CPU by asking it, and the versions there.

        Raises:
            MeasurementProblem: when Python with NumPy and ONNX Runtime does not start on it.
            UsageProblem: where the instruction sets are not those of a real one, as far as it is known.
        """
        found: dict[str, Any] = json.loads(self._run(model, ("-c", _ASKS)).stdout)
        features = frozenset(found["features"])
        if real := known(model):
            if lost := sorted(real.has - features):
                raise UsageProblem(self._refused(model, lost))
            if more := sorted((features & DECIDES[self.machine]) - real.has):
                raise UsageProblem(
                    f"--cpu {model}: QEMU {self.version} gives it {', '.join(more)}, which a real one does not have; what runs "
                    "is another CPU. Install another version of QEMU, or give another CPU"
                )
        return Told(tuple(sorted(features)), found["versions"])

    def _refused(self, model: str, features: Sequence[str]) -> str:
        shown = ", ".join(features[:4]) + (f" and {len(features) - 4} more" if len(features) > 4 else "")
        return (
            f"--cpu {model}: QEMU {self.version} does not emulate {shown}; what runs is not a {model}, and other kernels "
            "compute. Judge on a real one, and compare hosts with: qguard merge --across-hosts (docs/cpus.md)"
        )

    def _run(self, model: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        around = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = _started([*self.started(model), *arguments], around)
        if done.returncode:
            last = said(done.stderr) or [ended(done.returncode)]
            needs = f"numpy and onnxruntime must be installed for {self.python}"
            if self.machine == ARM:
                needs += "; ONNX Runtime's AArch64 wheel runs on QEMU 10.0, and not on 7.2 (docs/cpus.md)"
            raise MeasurementProblem(f"Python does not run on {model} of QEMU {self.version}: {last[-1][:200]}; {needs}")
        return done


def emulator(name: str = "") -> Emulator:
    """The program of QEMU for the architecture of a CPU: the one that is installed here, or that a variable names.

    Args:
        name: The CPU; an x86-64 one by default.

    Raises:
        UsageProblem: where there is none, where it is no such program, where this machine is not x86-64, and for an AArch64 CPU
            without the folder of a Python for it.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux":
        raise UsageProblem(f"--cpu needs Linux on x86-64, found {platform.system()} on {platform.machine()}")
    machine = machine_of(name)
    usual = (f"qemu-{machine}-static", f"qemu-{machine}")
    variable = PROGRAM[machine]
    given = os.environ.get(variable, "")
    found = next((path for known in ((given,) if given else usual) if (path := shutil.which(known))), None)
    if found is None:
        what = f"{variable}={given}: there is no such program" if given else f"--cpu needs QEMU, and {usual[0]} is not installed"
        raise UsageProblem(f"{what}; {_DEBIAN}   (or set {variable} to the program)")
    return _emulator(found, machine, os.environ.get(ROOT, "") if machine == ARM else "")


@cache
def _emulator(program: str, machine: str, root: str) -> Emulator:
    version = re.search(rf"qemu-{machine} version ([^\s(]+)", _started([program, "--version"], os.environ).stdout)
    listed = _models(_started([program, "-cpu", "help"], os.environ).stdout)
    models = re.findall(r"^\s*(?:x86\s+)?([A-Za-z0-9_.-]+)(?:\s|$)", listed, re.MULTILINE)
    if version is None or not models:
        raise UsageProblem(
            f"{program}: expected QEMU's program that runs {machine} programs and prints its version, and its CPUs with "
            f"-cpu help; {_DEBIAN}"
        )
    if machine == X86:
        return Emulator(program, version[1], tuple(models))
    python = _python(root)
    return Emulator(program, version[1], tuple(models), machine, str(python), ("-L", str(Path(root).absolute())))


def _python(root: str) -> Path:
    """The Python for AArch64 in a folder.

    Raises:
        UsageProblem: where there is none.
    """
    found = sorted(p for p in Path(root).absolute().glob("usr/bin/python3*") if re.fullmatch(r"python3(\.\d+)?", p.name))
    if not root or not found:
        what = f"{ROOT}={root} has no usr/bin/python3" if root else f"{ROOT} is not set"
        raise UsageProblem(
            f"--cpu with an AArch64 CPU needs the folder of a Python for AArch64 with numpy and onnxruntime, and {what}; "
            "docs/cpus.md says how to make one"
        )
    return found[-1]


def _models(text: str) -> str:
    """The part of QEMU's help that lists CPUs."""
    return text.partition("Available CPUs:")[2].partition("Recognized CPUID flags:")[0]


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_WAIT, env=dict(environment)
        )
    except subprocess.TimeoutExpired:
        raise MeasurementProblem(f"{Path(command[0]).name} did not answer in {_WAIT:.0f} seconds; run it again") from None
    except OSError as e:
        raise UsageProblem(f"cannot start {command[0]}: {e.strerror or e}; {_DEBIAN}") from e


def said(errors: str) -> list[str]:
    """What a process wrote to its standard error, line by line, without QEMU's warnings on features."""
    return [line.strip() for line in errors.splitlines() if line.strip() and not _WARNING.search(line)]


def ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit status {code}, no message"
    import signal

    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
