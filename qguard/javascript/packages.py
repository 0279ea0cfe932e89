"""Node.js and the npm packages that compute. They are found here and never installed: messages name the command that does."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qguard.console.visible import visible
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.files import read_json

NODE_MODULES = "node_modules"
LEAST_NODE = 20
# What is measured with qguard's tests and docs. Another version is used as it is found, and named in reports.
PINNED = {"@huggingface/transformers": "4.3.1", "node-llama-cpp": "3.21.1"}
_PACKAGE = re.compile(r"(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Packages:
    """A folder of npm packages.

    Attributes:
        folder: A folder called ``node_modules``.
    """

    folder: Path

    def version(self, package: str) -> str | None:
        """The version of an installed package, as its ``package.json`` says it; ``None`` where it is not installed.

        Args:
            package: Its name, as npm has it.

        Raises:
            UsageProblem: for a name that npm cannot have.
            MeasurementProblem: when its ``package.json`` cannot be read.
        """
        if not _PACKAGE.fullmatch(package):
            raise UsageProblem(f"expected the name of an npm package, found {package!r}")
        file = self.folder / package / "package.json"
        if not file.is_file():
            return None
        version = read_json(file, MeasurementProblem).get("version")
        if not isinstance(version, str) or not re.fullmatch(r"[0-9A-Za-z.+-]{1,64}", version):
            raise MeasurementProblem(f"{file}: expected a version such as 4.3.1; {self.mend([package])}")
        return version

    def need(self, *packages: str) -> dict[str, str]:
        """The versions of packages, in the order given.

        Raises:
            MeasurementProblem: naming those that are not installed, and the command that installs them.
        """
        found = {package: self.version(package) for package in packages}
        absent = [package for package, version in found.items() if version is None]
        if absent:
            what = f"npm package {absent[0]} is" if len(absent) == 1 else f"npm packages {', '.join(absent)} are"
            raise MeasurementProblem(f"{what} not installed in {self.folder}; {self.mend(absent)}")
        return {package: version for package, version in found.items() if version is not None}

    def mend(self, packages: Iterable[str]) -> str:
        """The command that installs packages here, in the versions that qguard is tested with.

        Their install scripts download what no computation on a CPU needs, such as onnxruntime-node's CUDA libraries.
        """
        pinned = " ".join(f"{p}@{PINNED[p]}" if p in PINNED else p for p in packages)
        return (
            f"run: npm install --ignore-scripts --prefix {self.folder.parent} {pinned}   "
            "(or name another folder: [tool.qguard.javascript] modules)"
        )


def node(named: str = "node") -> Path:
    """The program Node.js.

    Args:
        named: Its name or path.

    Raises:
        MeasurementProblem: where it is absent, cannot be started or is too old.
    """
    want = f"expected Node.js {LEAST_NODE} or newer"
    mend = "install it (https://nodejs.org), or name its path: [tool.qguard.javascript] node"
    found = shutil.which(named)
    if found is None:
        raise MeasurementProblem(f"{want}, found no program {named!r}; {mend}")
    try:
        done = subprocess.run(
            [found, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise MeasurementProblem(f"{want}, and {named!r} cannot be started ({type(e).__name__}); {mend}") from e
    read = re.fullmatch(r"v(\d+)\.\d+\.\d+\S*", done.stdout.strip())
    if read is None or int(read[1]) < LEAST_NODE:
        said = done.stdout.strip()[:40] or "nothing"
        raise MeasurementProblem(f"{want}, and {named!r} says {visible(said)}; {mend}")
    return Path(found)
