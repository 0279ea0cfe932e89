"""What a run knows of one target beside its checks: files or server, model, texts, golden, and the gates in force."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.attest import served
from qguard.attest.policy import gates_in_force
from qguard.attest.settings import settings_in_force
from qguard.attest.subjects import digests, name_in_folder
from qguard.encoders.runtimes import NO_FILES
from qguard.errors import UsageProblem
from qguard.goldens.marked import KEY
from qguard.judging.facts import scope
from qguard.report.host import host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qguard.judging.session import Session, Target


def refuse_several(targets: Iterable[Target]) -> None:
    """A verdict is of one artifact, so of one precision of one model; its suites may be several.

    Raises:
        UsageProblem: for more, and for a precision whose runtime has no files.
    """
    targets = list(targets)
    for target in targets:
        if target.precision.runs_in.files == NO_FILES and not served.is_served(target.precision):
            raise UsageProblem(
                f"--qguard-attest: a verdict is bound to an artifact's files, and {target.precision} has none: its runtime "
                f"{target.precision.runtime!r} keeps the model; judge it without --qguard-attest"
            )
    found = list(dict.fromkeys((str(t.precision), t.model) for t in targets))
    if len(found) > 1:
        listed = ", ".join(f"{p} of {m}" for p, m in found)
        raise UsageProblem(
            f"--qguard-attest: a verdict is of one artifact, and this run judges {len(found)}: {listed}; "
            "give one --precision and one --qguard-model, and run pytest once for each"
        )


def refuse_indexes(names: Sequence[str]) -> None:
    """A verdict is of an artifact, and ``qguard verify`` has no store to look into.

    Args:
        names: Of ``--index``.

    Raises:
        UsageProblem: for any.
    """
    if names:
        raise UsageProblem(
            "--qguard-attest: a verdict is of an artifact's files, and says nothing of an index, found --index "
            f"{','.join(names)}; give the options in two runs of pytest"
        )


def refuse_cpus(models: Sequence[str]) -> None:
    """A verdict names the machine that judged, and ``qguard verify`` compares that with where it runs.

    Args:
        models: Of ``--cpu``.

    Raises:
        UsageProblem: for any.
    """
    if models:
        raise UsageProblem(
            "--qguard-attest: a verdict is of the machine that judges, and not of CPUs that are emulated, found --cpu "
            f"{','.join(models)}; give the options in two runs of pytest"
        )


def artifact_path(session: Session, target: Target) -> Path:
    """What is deployed: the given artifact, or the folder that was built.

    Raises:
        ArtifactProblem: where there are no files.
    """
    if session.artifact_path:
        return session.artifact_path
    artifact = session.artifact(target.precision, target.model)
    artifact.need_files()
    return artifact.folder


def evidence(session: Session, target: Target) -> dict[str, Any]:
    """Facts of one target, for :func:`qguard.attest.statement.statement`; JSON, so that they travel between processes.

    Raises:
        QguardError: when the artifact, the golden or the suite cannot be read.
    """
    precision, model, suite = target.precision, session.model(target.model), session.suite_of(target.suite, target.model)
    artifact = session.artifact(precision, target.model)
    manifest = session.golden(target.model, target.suite).manifest
    of_server = served.is_served(precision)
    path = None if of_server else artifact_path(session, target)
    in_force = gates_in_force(session, precision, target.model)
    return {
        "files": digests(path) if path else served.subject(session, target),
        **({"endpoint": served.facts(session, target)} if of_server else {}),
        "model": {
            "name": target.model, "kind": model.kind, "weights": model.weight_sha256, "tokenizer": model.tokenizer_sha256,
            "pipeline": model.pipeline.sha256(),
        },
        "precision": {
            "name": precision.label, "runtime": precision.runtime, "vectors": precision.vectors, "recipe": precision.base,
            "computed_in": artifact.runtime(precision.runtime),
            "file": name_in_folder(path, artifact.file) if path else "",
            "calibration": {k: v for k, v in artifact.calibration.items() if k != "texts"},
            **({"left_out": unproved} if (unproved := precision.runs_in.left_out()) else {}),
        },
        "suite": {"name": target.suite, "sha256": suite.sha256, "texts": len(suite.texts), "slices": suite.slice_names},
        "golden": {
            "manifest": manifest["manifest_sha256"], "data": manifest["data_sha256"], "date": manifest["date"],
            "endpoint": manifest.get(KEY),
        },
        "scope": scope(session, target).to_json(),
        "gates": {key: {"bound": g.bound.to_json(), "on": g.on} for key, g in in_force.items()},
        "settings": settings_in_force(session, precision, target.model),
        "host": host(),
    }  # fmt: skip
