"""The family ``cpu``: the artifact on CPUs that QEMU emulates, a sample of the suite's texts on each.

This process does all but the sums: it makes token ids, pools, compares and judges. ONNX Runtime runs under the emulator, with the
session option that a CPU without VNNI needs exactly where the artifact declares it. Nothing is timed there. What was computed is
kept in the cache, batch by batch, under everything that decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qguard.boundary import step
from qguard.console.progress import progress
from qguard.encoders import Floats
from qguard.encoders.elsewhere import ElsewhereRuntime
from qguard.encoders.kept import KeptEncoder, LaterRuntime
from qguard.encoders.onnx import EXACT, exact_products
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import ArtifactProblem, MeasurementProblem, QguardError, UsageProblem
from qguard.families import family_of
from qguard.files import cache_folder, sha256_file, sha256_json
from qguard.gates import Gate
from qguard.gates.check import Check, PartlyMeasured
from qguard.gates.check import judge as judge_values
from qguard.judging.once import once
from qguard.kinds import DENSE, KINDS
from qguard.machine.cpu import cores, cpu, cpu_class
from qguard.machine.emulated import Emulator, Told, emulator
from qguard.machine.known_cpus import saturates, words
from qguard.machine.versions import installed
from qguard.metrics import Measured
from qguard.metrics.cpus import FAMILY, SAME, Sampled
from qguard.suites.spread import spread
from qguard.vectors.quantized import FLOAT

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision

RUNTIME, TEXTS, LEAST = "onnx", 48, 12  # a text of a small model takes about a second


@dataclass(frozen=True)
class Cpu:
    """What one emulated CPU computed.

    Attributes:
        model: As QEMU names it.
        emulator: The program.
        told: What Python says there.
        without: Features of a real one that QEMU takes away, none of them arithmetic; as QEMU names them.
        exact: Whether the session had the option that keeps products from saturating.
        vectors: float32 (n, dim) of the sample's texts.
    """

    model: str
    emulator: Emulator
    told: Told
    without: tuple[str, ...]
    exact: bool
    vectors: Floats

    def host(self) -> dict[str, Any]:
        """As :func:`qguard.report.host.host` has a machine; no cores and no times are told of an emulated one."""
        return {
            "cpu": self.model, "class": words(self.emulator.machine, self.told.features),
            "emulated": f"QEMU {self.emulator.version}", "features": list(self.told.features), "without": list(self.without),
            "versions": dict(self.told.versions),
        }  # fmt: skip


def parse_texts(given: str | None, cpus: Sequence[str] = ("",)) -> int:
    """The value of ``--qguard-cpu-texts``; 0 for all.

    Args:
        given: What was typed.
        cpus: Those of ``--cpu``.

    Raises:
        UsageProblem: for anything but ``all`` and a number from :data:`LEAST` on, and without a CPU.
    """
    if given is None:
        return TEXTS
    if not cpus:
        raise UsageProblem("--qguard-cpu-texts is for emulated CPUs: give --cpu NAME, or leave it out")
    if given == "all":
        return 0
    if given.isdecimal() and int(given) >= LEAST:
        return int(given)
    raise UsageProblem(f"--qguard-cpu-texts: expected a number of texts from {LEAST} on, or all; found {given!r}")


def fits(session: Session, precision: Precision) -> bool:
    """Whether the vectors of a precision are computed on the CPUs of ``--cpu``."""
    return bool(session.cpus) and precision.runtime == RUNTIME and precision.vectors == FLOAT


def left_out(session: Session, precision: Precision) -> dict[str, str]:
    """Why the family does not judge a precision, where CPUs are named."""
    if not session.cpus or fits(session, precision):
        return {}
    why = "an emulated CPU runs ONNX Runtime" if precision.runtime != RUNTIME else f"{precision.plain} is judged on the CPUs"
    return {FAMILY: why}


def resolved(names: Sequence[str]) -> tuple[str, ...]:
    """The CPUs of ``--cpu`` as QEMU names them.

    Raises:
        UsageProblem: without QEMU, for a CPU that it does not know, and for one that it cannot give.
    """
    if not names:
        return ()
    models = tuple(dict.fromkeys(emulator(name).model(name) for name in names))
    for model in models:
        emulator(model).missing(model)
    return models


def refuse(session: Session, precisions: Sequence[Precision]) -> None:
    """Something is judged on the CPUs, and every gate on one of them is of one that is named.

    Raises:
        UsageProblem: for anything else, before anything is encoded.
    """
    if not session.cpus:
        return
    for key in {key for gates in session.config.gates.values() for key in gates if key.startswith(f"{FAMILY}.")}:
        part = key.partition("[")[2].rstrip("]")
        if part and part != "*" and part not in emulator(part).models:
            raise UsageProblem(f"gate {key} would never be judged: QEMU knows no CPU of this name; write it as the report does")
    if not any(fits(session, p) for p in precisions):
        raise UsageProblem(
            f"--cpu runs artifacts in ONNX Runtime with float32 vectors, found --precision {','.join(map(str, precisions))}; "
            "give one such as int8"
        )
    for model in session.config.models:
        if (kind := session.kind(model)) != DENSE:
            raise UsageProblem(
                f"--cpu: model {model!r} gives {KINDS[kind].gives}; vectors of dense models are compared between CPUs"
            )


def judge_cpus(session: Session, target: Target) -> list[Check]:
    """The checks of all CPUs of ``--cpu``.

    Raises:
        PartlyMeasured: when some could not be measured; it holds the checks of the others.
    """
    checks, problems = list[Check](), list[str]()
    for model in session.cpus:
        try:
            checks += _judged(session, target, model)
        except QguardError as e:
            problems.append(f"{model}: {e}")
    if problems:
        raise PartlyMeasured("; ".join(problems), checks)
    return checks


def facts(session: Session, target: Target) -> list[dict[str, Any]]:
    """What a report says of each CPU that was measured."""
    found = []
    for model in session.cpus:
        try:
            there, sampled = computed(session, target, model), sample(session, target)
            measured = [*sampled.of_fp32(there.vectors), *sampled.of_native(there.vectors)]
        except QguardError:
            continue  # which the family's test tells
        native = {m.name: m.value for m in _native(session, target)}
        found.append(
            {
                "name": model, "host": there.host(), "native": {"cpu": cpu()[0], "class": cpu_class()},
                "exact_products": there.exact, "texts": len(sampled.rows), "of": len(sampled.native.suite.texts),
                "values": {m.name: {"value": m.value, "native": native.get(m.name)} for m in measured},
            }
        )  # fmt: skip
    return found


def _judged(session: Session, target: Target, model: str) -> list[Check]:
    """Checks with the project's gates on the family, or else the precision's own gates on the same value of the suite."""
    there, sampled = computed(session, target, model), sample(session, target)
    gates = session.gates(target.precision, target.model)
    of_suite = {g.metric: g.bound for g in gates if g.slice is None and g.on == "value"}
    native = {m.name: m.value for m in _native(session, target)}
    found = [*sampled.of_fp32(there.vectors), *sampled.of_native(there.vectors)]
    moved = {family_of(SAME[m.name]): m.worst for m in reversed(found) if m.worst and m.name in SAME}
    checks = []
    for m in found:
        lines = m.worst
        if m.name in native:  # a mean has no worst text: that of its family shows it
            lines = (*(lines or moved.get(family_of(SAME[m.name]), ())), _beside(native[m.name], len(sampled.rows)))
        bound = of_suite.get(SAME.get(m.name, "")) if sampled.judged(m.name) else None
        own = {g.slice: g for g in gates if g.metric == m.name}
        gate = next((own[part] for part in (model, "*", None) if part in own), None)
        chosen = [] if gate is None else [Gate(gate.metric, model, gate.bound, gate.on, gate.origin, gate.tables)]
        given = replace(m, slice=model, worst=lines, bound=bound)
        checks += judge_values([given], chosen, target.suite, session.intervals)
    return checks


def _beside(value: float, texts: int) -> str:
    return f"on this CPU the same {texts} texts give {value:.6f}"


@once
def sample(session: Session, target: Target) -> Sampled:
    """The texts that are computed on each CPU, with this CPU's vectors of them.

    Raises:
        MeasurementProblem: of a large suite, whose documents' vectors are not held.
    """
    suite, ids = session.suite(target.suite, target.model), session.token_ids(target)
    if suite.corpus is not None:
        raise MeasurementProblem(f"suite {suite.name!r} is large; judge CPUs on a smaller suite: --qguard-suite NAME")
    rows = _rows(session, target)
    # in batches of their own: of a precision whose activation ranges are those of the batch, other batches give other vectors
    encoder = session.encoder(target.precision, target.model)
    whole = len(rows) == len(ids)
    plain = session.embeddings(target) if whole else encoder.encode_ids([ids[i] for i in rows])
    return Sampled(session.comparison(target), rows, session.cut(target, plain))


def _rows(session: Session, target: Target) -> list[int]:
    """The texts that are computed on each CPU, by index."""
    ids, slices = session.token_ids(target), session.suite(target.suite, target.model).slices
    return spread([len(row) for row in ids], slices, session.cpu_texts or len(ids))


@once
def _native(session: Session, target: Target) -> list[Measured]:
    sampled = sample(session, target)
    return sampled.of_fp32(sampled.vectors)


def computed(session: Session, target: Target, model: str) -> Cpu:
    """What a CPU computes of the sample, cut to the precision's dimensions; see :class:`Cpu`."""
    found = _computed(session, target.plain, model)
    return replace(found, vectors=session.cut(target, found.vectors))


@once
def _computed(session: Session, target: Target, model: str) -> Cpu:
    artifact, ids = session.artifact(target.precision, target.model), session.token_ids(target)
    if artifact.runtime(target.precision.runtime) != RUNTIME or artifact.file is None:
        raise ArtifactProblem("an emulated CPU runs ONNX files, and the artifact has none; give --artifact=FILE.onnx")
    found = emulator(model)
    with step(f"starting {model} of QEMU {found.version}"):
        without, told = found.missing(model), found.told(model)
    here = installed("onnxruntime")["onnxruntime"]
    if (there := told.versions["onnxruntime"]) != here:
        raise MeasurementProblem(
            f"ONNX Runtime {there} would run on {model}, and {here} runs here: they would be compared, and not the CPUs; install "
            f"onnxruntime=={here} for {found.python}"
        )
    exact = exact_products(artifact.file) and saturates(found.machine, told.features)
    entries = {EXACT: "1"} if exact else {}
    key = _key(artifact, entries, found, model, told)
    name = f"{model}, emulated by QEMU {found.version},"

    def opened() -> ElsewhereRuntime:
        assert artifact.file is not None
        feeding = artifact.feeding.padded_by(session.tokenizer(target.precision, target.model))
        made = ElsewhereRuntime(
            artifact.file, found.started(model), feeding=feeding, entries=entries, processes=cores(), name=name
        )
        if made.features != told.features or any(made.versions.get(k) != v for k, v in told.versions.items()):
            raise MeasurementProblem(f"{name} is not the environment that was asked for; start pytest again")
        return made

    runtime = LaterRuntime(opened, RUNTIMES[RUNTIME].batch, cores())
    native = session.encoder(target.precision, target.model)
    rows = _rows(session, target)
    try:
        with (
            step(f"encoding {len(rows)} texts on {model}", artifact.file),
            progress(f"{len(rows)} texts on {model}", len(rows), in_tests=True) as advance,
        ):
            encoder = KeptEncoder(native.tokenizer, runtime, native.head, cache_folder() / "cpus" / key, advance)
            vectors = encoder.encode_ids([ids[i] for i in rows])
    finally:
        runtime.close()
    return Cpu(model, found, told, without, exact, vectors)


def _key(artifact: Artifact, entries: Mapping[str, str], found: Emulator, model: str, told: Told) -> str:
    """Of everything that decides a text's vector but its token ids."""
    return sha256_json(
        {
            "artifact": artifact.sha256, "feeding": repr(artifact.feeding), "entries": dict(entries), "cpu": model,
            "qemu": [found.version, sha256_file(found.path)], "machine": found.machine, "features": told.features,
            "versions": dict(told.versions), "schema": 1,
        }
    )[:32]  # fmt: skip


__all__ = ["FAMILY", "Cpu", "computed", "facts", "fits", "judge_cpus", "left_out", "parse_texts", "refuse", "resolved", "sample"]
