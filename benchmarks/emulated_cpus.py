"""What one artifact computes on several CPUs: a sample of core on CPUs that QEMU emulates, and on this one.

For each artifact and CPU: cosine to fp32, and to this CPU's vectors; neighbors of fp32 that the texts find among documents that
this CPU computed; and how many of this CPU's neighbors they find there. Where an artifact declares the option for exact products,
its file is also run without it. What was computed is kept in the cache, so that a run which was stopped goes on.

usage: python benchmarks/emulated_cpus.py ARTIFACT... [--cpu haswell,milan,nehalem] [--texts 48] [--project FOLDER]

ARTIFACT is a precision, such as int8-dynamic, or a folder or file of the project's model; NAME=ARTIFACT gives it a name. The
project is by default this repository, whose model is all-MiniLM-L6-v2. It needs qemu-user-static.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qguard.config import load_config
from qguard.encoders.onnx import exact_products
from qguard.errors import QguardError
from qguard.judging.cpus import computed, parse_texts, resolved, sample
from qguard.judging.session import Session, Target
from qguard.machine.cpu import cpu, cpu_class
from qguard.machine.emulated import emulator
from qguard.machine.versions import installed
from qguard.metrics import Measured
from qguard.precisions import parse_precision
from qguard.report.cpus import number

HEADS = (
    "artifact", "CPU", "cosine to fp32, mean", "lowest", "overlap@10 with fp32", "cosine to this CPU, lowest",
    "overlap@10 with this CPU",
)  # fmt: skip
TO_FP32 = ("cpu.cosine_mean", "cpu.cosine_min", "cpu.overlap@10")
TO_NATIVE = ("cpu.native_cosine_min", "cpu.native_overlap@10")


def opened(project: Path, given: str, cpus: tuple[str, ...], texts: int) -> tuple[Session, Target]:
    """A session that judges an artifact on the project's first model and suite."""
    config = load_config(project)
    path = Path(given) if Path(given).exists() else None
    session = Session(config, path, cpus=cpus, cpu_texts=texts)
    precision = parse_precision("int8" if path else given)
    return session, Target(precision, next(iter(config.models)), config.suites[0])


def rows(name: str, session: Session, target: Target) -> Iterator[list[str]]:
    """This CPU's row, and one for each emulated one."""
    sampled = sample(session, target)
    yield [name, "this one", *shown(sampled.of_fp32(sampled.vectors), TO_FP32), "", ""]
    for model in session.cpus:
        try:
            vectors = computed(session, target, model).vectors
        except QguardError as e:
            yield [name, model, str(e), *[""] * 4]
            continue
        yield [name, model, *shown(sampled.of_fp32(vectors), TO_FP32), *shown(sampled.of_native(vectors), TO_NATIVE)]


def shown(measured: list[Measured], names: tuple[str, ...]) -> list[str]:
    """Values by name."""
    values = {m.name: m.value for m in measured}
    return [number(values[name]) for name in names]


def main() -> None:
    """Write the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT")
    parser.add_argument("--cpu", default="haswell,milan,nehalem")
    parser.add_argument("--texts", default=None)
    parser.add_argument("--project", type=Path, default=Path())
    args = parser.parse_args()
    cpus, texts = resolved(args.cpu.split(",")), parse_texts(args.texts)
    versions = ", ".join(f"{k} {v}" for k, v in installed("onnxruntime", "numpy").items())
    programs = ", ".join(dict.fromkeys(f"QEMU {emulator(name).version}" for name in cpus))
    print(f"{cpu()[0]}, {cpu_class()}; {programs}; {versions}\n")
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    with tempfile.TemporaryDirectory() as work:
        for i, given in enumerate(args.artifacts):
            name, _, where = given.rpartition("=")
            session, target = opened(args.project, where, cpus, texts)
            file = session.artifact(target.precision, target.model).file
            runs = [(name or where, session, target)]
            if file is not None and exact_products(file):
                bare = Path(work) / str(i) / file.name  # without the file beside it that declares the option
                bare.parent.mkdir()
                shutil.copyfile(file, bare)
                runs.append((f"{name or where}, without the option", *opened(args.project, str(bare), cpus, texts)))
            for run in runs:
                for row in rows(*run):
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
