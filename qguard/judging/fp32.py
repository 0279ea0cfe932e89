"""fp32 as this machine computes it now, beside a candidate."""

from __future__ import annotations

import numpy as np

from qguard.artifacts.artifact import Artifact, open_artifact
from qguard.boundary import step
from qguard.encoders import Encoder, Floats
from qguard.errors import ArtifactProblem, LibraryProblem
from qguard.judging.session import Session, Target
from qguard.precisions import Precision, fp32_of

PROVED = 16  # texts of the golden on which a given fp32 is run
NEAREST = 0.9999  # to the golden, least; runtimes and CPUs differ by less


def fp32_artifact(session: Session, model: str, runtime: str) -> Artifact:
    """fp32 of a runtime: given (see :func:`given_fp32`), from the cache, or built now.

    Raises:
        QguardError: when there is none.
    """
    if (given := given_fp32(session, model, runtime)) is not None:
        return given
    try:
        return fp32_of(runtime).build(session.model(model))
    except LibraryProblem as e:
        if not isinstance(e.__cause__, ModuleNotFoundError):
            raise
        raise LibraryProblem(
            f'{e}; or give it: fp32 = "FOLDER" in [tool.qguard.models.{model}], a folder that '
            f"`qguard quantize --precision {fp32_of(runtime)} --out FOLDER` wrote elsewhere"
        ) from e.__cause__


def given_fp32(session: Session, model: str, runtime: str) -> Artifact | None:
    """fp32 of a runtime in the folder that the configuration names; ``None`` where it names none, or one of another runtime.

    What a candidate is compared with must be fp32 of this model: its record names the model's weights, tokenizer and modules,
    and it gives the golden's outputs again.

    Raises:
        ArtifactProblem: for a folder that is something else.
    """
    folder = session.config.fp32_folder(model)
    if folder is None:
        return None
    where, base, wanted = f"[tool.qguard.models.{model}] fp32", session.model(model), fp32_of(runtime)
    mend = f"run: qguard quantize --qguard-model {model} --precision {wanted} --out {folder.name} --force"
    if not folder.is_dir():
        raise ArtifactProblem(f"{where}: expected a folder of fp32 that qguard made, found no folder {folder.name}; {mend}")
    with step(f"opening {where}", folder.name):
        found = open_artifact(folder, base, runtime)
    made, key = found.provenance.get("key", {}), wanted.key(base)
    if not str(made.get("precision", "")).startswith("fp32-"):
        raise ArtifactProblem(
            f"{where}: expected a folder of fp32 that qguard made, found {made.get('precision', 'another')}; {mend}"
        )
    if made["precision"] != key["precision"]:
        return None
    changed = [name for name in ("weights", "tokenizer", "pipeline") if made.get(name) != key[name]]
    if changed:
        raise ArtifactProblem(
            f"{where}: {folder.name} was made of other {' and '.join(changed)} than model {model!r} has; {mend}"
        )
    suite = next(iter(session.config.suites))
    golden, roles = session.golden(model, suite), session.suite(suite, model).roles
    rows = np.unique(np.linspace(0, len(golden.token_ids) - 1, PROVED).astype(int)).tolist()
    encoder = session.opened(runtime, found, found.file)
    made_now = encoder.encode_ids(encoder.tokenizer.told([golden.token_ids[i] for i in rows], [roles[i] for i in rows]))
    nearest = float(session.similarity(model).nearness(made_now, golden.vectors[rows]).min())
    if not nearest >= NEAREST:
        raise ArtifactProblem(
            f"{where}: expected the golden's outputs, found some that differ (cosine {nearest:.4f} on {len(rows)} texts); {mend}"
        )
    return found


def live_fp32(session: Session, target: Target, rows: list[int]) -> tuple[str, Floats]:
    """fp32 as this machine computes it now; see :func:`fp32_runtime` for where.

    Args:
        target: Its model, suite and artifact.
        rows: Indices of n texts.

    Returns:
        The precision's name, and float32 (n, dim).

    Raises:
        QguardError: when fp32 cannot be made or run here.
    """
    runtime = fp32_runtime(session, target.precision, target.model)
    name = f"fp32@{runtime}"
    if target.precision.base == "fp32" and session.artifact_path is None and runtime == target.precision.runtime:
        return name, session.embeddings(target)[rows]  # the candidate is what would be run
    ids, roles = session.golden(target.model, target.suite).token_ids, session.suite(target.suite, target.model).roles
    encoder = fp32_encoder(session, target.model, runtime)
    return name, encoder.encode_ids(encoder.tokenizer.told([ids[i] for i in rows], [roles[i] for i in rows]))


def fp32_runtime(session: Session, precision: Precision, model: str) -> str:
    """The runtime that computes fp32 beside a candidate: the one that its recipe's record names.

    Raises:
        QguardError: when there is none.
    """
    return fp32_of(session.artifact(precision, model).runtime(precision.runtime)).runtime


def fp32_encoder(session: Session, model: str, runtime: str) -> Encoder:
    """fp32 in a runtime, to be run now; opened anew each time, since whoever keeps it keeps all of its weights in memory.

    Raises:
        QguardError: when fp32 cannot be made or run here.
    """
    fp32 = session.fp32(model, runtime)
    return session.opened(runtime, fp32, fp32.file)
