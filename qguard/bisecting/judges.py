"""What judges one version: a worker with this qguard's own metrics, a paired trial, or the whole gate in another environment."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qguard.bisecting.environments import Environment, environment, own_copy
from qguard.bisecting.index import Index
from qguard.bisecting.question import Question
from qguard.bisecting.reading import Reading
from qguard.bisecting.search import PASSED_OVER
from qguard.errors import MeasurementProblem, QguardError, UsageProblem
from qguard.families import measure
from qguard.files import read_json
from qguard.gates import Gate
from qguard.gates.check import Check, judge
from qguard.judging.elsewhere import ONNX, encoder_elsewhere

RUNTIME = ("onnxruntime", "numpy")  # what a worker needs
_SWITCHES = ("CI", "PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_PLUGINS", "PYTHONHOME")


def reading(name: str, measured: Callable[[], tuple[Check, dict[str, Any]]]) -> Reading:
    """The reading of a version; an error of qguard's own classes passes it over, in its words."""
    from qguard.report.details import without_home

    start = time.monotonic()
    try:
        check, more = measured()
    except QguardError as e:
        note: str = without_home(str(e))
        return Reading(name, None, PASSED_OVER, note=note, seconds=time.monotonic() - start)
    return Reading.of(name, check, seconds=time.monotonic() - start, **more)


def prove(question: Question) -> None:
    """Everything that is the same for all versions is there: golden, model, artifact and their token ids.

    Raises:
        QguardError: what is missing.
    """
    question.session.golden(question.target.model, question.target.suite)
    question.session.token_ids(question.target)


def by_worker(question: Question, made: Environment, name: str) -> tuple[Check, dict[str, Any]]:
    """The metric with the network in ONNX Runtime of another environment, and all else of here.

    Raises:
        QguardError: when it cannot be measured there.
    """
    session, target = question.session, question.target
    with encoder_elsewhere(session, target.precision, target.model, [made.python], name) as there:
        suite, gates = session.suite(target.suite, target.model), session.gates(target.precision, target.model)
        if question.family.name == "invariance":
            from qguard.judging.invariance import measure_invariance

            found = measure_invariance(there, suite, session.token_ids(target), session.similarity(target.model))
        else:
            vectors = there.encode_rows(session.rows(target, there, session.token_ids(target)))
            found = measure(session.compared(target, vectors), question.family.name)
        asked = [m for m in found if (m.name, m.slice) == (question.metric, question.slice)]  # intervals of others take seconds
        return question.answer(judge(asked or found, gates, target.suite)), _facts(question, made)


def refuse_worker(question: Question) -> None:
    """A worker measures what vectors and times say, in ONNX Runtime.

    Raises:
        UsageProblem: for another metric, runtime or suite.
    """
    runtime = question.target.precision.runtime
    if runtime != ONNX:
        raise UsageProblem(
            f"{question.target.precision} runs in {runtime}, and not in ONNX Runtime; bisect the package {runtime}"
        )
    if question.family.name == "latency":
        if question.metric not in ("latency.regression", "latency.speedup"):
            raise UsageProblem(f"--metric {question.label}: expected latency.regression or latency.speedup")
    elif not question.family.sampled and question.family.name != "invariance":
        raise UsageProblem(
            f"--metric {question.label} is not a statistic of the suite's texts; bisect one of the families embedding, "
            "similarity, ranking, task, invariance, or latency.regression"
        )
    if question.session.suite(question.target.suite).corpus is not None and question.family.name != "latency":
        raise UsageProblem(f"suite {question.target.suite!r} has a large corpus; bisect on a smaller suite: --suite NAME")


def by_trial(question: Question, base: Environment, made: Environment, name: str, trials: int) -> tuple[Check, dict[str, Any]]:
    """The latency of a version by a paired trial, as the gate judges it.

    ``latency.regression``: the same file in both interpreters, against that of the good version. ``latency.speedup``: against
    fp32 in the interpreter of the version itself.

    Raises:
        QguardError: when nothing could be timed.
    """
    from qguard.judging import latency
    from qguard.latency.check import PlannedTrial, compare, spec_of
    from qguard.precisions import fp32_of

    session, target = question.session, question.target
    settings, bucket = session.config.latency, bucket_of(question)
    if question.metric == "latency.regression" and base.folder == made.folder:
        # no trial tells more: a failure of another release is confirmed beside the baseline against itself
        itself = Check(question.metric, target.suite, question.slice, 1.0, settings.regression, "pass", None, 0)
        return itself, {**_facts(question, made), "note": "what the others are timed against"}
    artifact = session.artifact(target.precision, target.model)
    candidate = spec_of(artifact, target.precision, settings.threads, made.python)
    if question.metric == "latency.speedup":
        promised = latency.speedup(session, target.precision, target.model)
        fp32 = session.fp32(target.model, candidate.runtime)
        baseline = spec_of(fp32, fp32_of(candidate.runtime), settings.threads, made.python)
        gate = promised and Gate(promised.metric, str(bucket), promised.bound)
    else:
        baseline = spec_of(artifact, target.precision, settings.threads, base.python)
        gate = Gate("latency.regression", str(bucket), settings.regression)
    batch = bucket.fill(session.golden(target.model, target.suite).token_ids)
    planned = PlannedTrial(question.metric, gate, baseline, candidate)
    options = {"gates": trials, "threads": settings.threads, "budget": settings.budget}
    check, facts, _ = compare(planned, bucket, batch, target.suite, **options)  # type: ignore[arg-type]
    return check, {**_facts(question, made), "note": f"{facts['pairs']} pairs in {facts['seconds']:.1f} s"}


def bucket_of(question: Question) -> Any:
    """The shape that is timed: of the metric's slice, else the first gated one of the configuration.

    Raises:
        UsageProblem: for a slice that is no shape.
    """
    from qguard.latency.check import GATED_TOKENS, Bucket

    if question.slice is None:
        latency = question.session.config.latency
        return Bucket(next((t for t in latency.tokens if t >= GATED_TOKENS), GATED_TOKENS), min(latency.batches))
    tokens, _, batch = question.slice.partition("x")
    if not (tokens.isdigit() and batch.isdigit() and int(tokens) > 2 and int(batch)):
        raise UsageProblem(f"--metric {question.label}: expected tokens x batch, such as latency.regression[64x1]")
    return Bucket(int(tokens), int(batch))


def by_gate(
    question: Question, python: str, folder: Path, artifact: str | None = None, made: Environment | None = None
) -> tuple[Check, dict[str, Any]]:
    """The metric as a whole run of the gate in another environment or folder reports it.

    Args:
        question: The metric.
        python: The interpreter.
        folder: That of the configuration.
        artifact: ``--artifact``; ``None`` where the gate builds it.
        made: The environment, for its versions.

    Raises:
        MeasurementProblem: when the report has no value, with what the run said.
    """
    around = {k: v for k, v in os.environ.items() if k not in _SWITCHES} | {"PYTHONPATH": str(own_copy())}
    with tempfile.TemporaryDirectory() as work:
        report = Path(work, "report.json")
        options = [*question.options, "--no-qguard-strict", f"--qguard-report={report}"]
        options += [f"--qguard-artifact={artifact}"] if artifact else []
        # -P: what lies in the project's folder is not imported in place of a package. Options of the project may need plugins
        command = [python, "-P", "-m", "pytest", "--pyargs", "qguard.gate", "-o", "addopts=", "-p", "no:cacheprovider", "-q"]
        try:
            done = subprocess.run([*command, *options], cwd=folder, env=around, capture_output=True, text=True, check=False)
        except OSError as e:
            raise MeasurementProblem(f"cannot start {Path(python).name}: {e.strerror or e}") from e
        if not report.exists():
            raise MeasurementProblem(f"the gate did not run: {_last(done.stderr or done.stdout)}")
        (run,) = read_json(report, MeasurementProblem)["runs"]
    if not (checks := [Check.from_json(c) for c in run["checks"]]):
        raise MeasurementProblem(next(iter(run["errors"]), None) or _last(done.stdout))
    found = question.answer(checks)
    return found, _facts(question, made) if made else {"command": question.pytest}


def _facts(question: Question, made: Environment) -> dict[str, Any]:
    """What a reading says of its environment."""
    names = [n for n in ("onnxruntime", "numpy", "torch", "transformers", "tokenizers", "openvino") if n in made.installed]
    return {"versions": {n: made.installed[n] for n in names}, "note": made.note}


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR", "E ", "ImportError", "ModuleNotFoundError"))] or lines[-1:]
    return told[0][:300] if told else "it said nothing"


def runtime_environment(index: Index, package: str, version: str, refresh: bool) -> Environment:
    """An environment of ONNX Runtime and NumPy alone: one of them of the version, the other one as it is here."""
    import importlib.metadata

    here = {name: importlib.metadata.version(name) for name in RUNTIME}
    return environment(index, [f"{n}=={v}" for n, v in (here | {package: version}).items()], refresh=refresh)
