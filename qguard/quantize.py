"""``qguard quantize``: an artifact as a folder of its own, to be deployed and judged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from qguard.artifacts.artifact import PROVENANCE, Artifact
from qguard.config import Config
from qguard.errors import ArtifactProblem, UsageProblem
from qguard.files import copy_files, replaces, replacing
from qguard.judging.artifact import measure_artifact
from qguard.models.model import Model
from qguard.onnx.edit import Graph
from qguard.precisions import Precision, known
from qguard.precisions.calibration import Calibration
from qguard.precisions.fusion import attention_fused


def calibrated(
    precision: Precision, config: Config, calibration: str | None = None, samples: int | None = None, seed: int | None = None
) -> Precision:
    """``precision`` with other calibration texts, or another draw of them.

    Args:
        precision: Whose recipe is calibrated.
        config: Where suites are known; its own settings stand where nothing is given.
        calibration: A suite, or a file or folder, relative to the working folder.
        samples: Texts to draw, at least one.
        seed: Of the draw.

    Raises:
        UsageProblem: for a recipe without calibration, no texts, or no such suite or file.
    """
    if calibration is None and samples is None and seed is None:
        return precision
    if not precision.recipe.calibrated:
        raise UsageProblem(
            f"{precision} is not calibrated: no --calibration, --samples or --seed; "
            f"calibrated: {', '.join(sorted(known(lambda r: r.calibrated)))}"
        )
    if samples is not None and samples < 1:
        raise UsageProblem(f"--samples: expected 1 or more, found {samples}")
    found = precision.calibration or Calibration()
    if calibration is not None:
        here = Path(calibration).resolve()
        texts = config.calibration(str(here) if here.exists() and calibration not in config.known_suites else calibration)
        found = replace(found, path=texts.path, source=texts.source)
    if samples is not None:
        found = replace(found, samples=samples)
    if seed is not None:
        found = replace(found, seed=seed)
    return replace(precision, calibration=found)


def check_target(folder: Path, force: bool) -> None:
    """Nothing of the user's may be lost: an existing folder is empty, or is an artifact that ``--force`` replaces.

    Raises:
        UsageProblem: for anything else.
    """
    if replaces(folder, force, "artifact") and not (folder / PROVENANCE).is_file():
        raise UsageProblem(f"--out {folder} holds no {PROVENANCE}: it is not an artifact, and --force does not replace it")


def write(artifact: Artifact, folder: Path, *, force: bool = False) -> None:
    """Copy an artifact that qguard built to ``folder``; a kill at any moment leaves the old or the new one, or none.

    Raises:
        UsageProblem: see :func:`check_target`.
        ArtifactProblem: when the disk does not take it, or there are no files.
    """
    artifact.need_files()
    check_target(folder, force)
    folder = folder.resolve()
    try:
        with replacing(folder) as new:
            copy_files(artifact.folder, new)
    except OSError as e:
        raise ArtifactProblem(f"cannot write {folder.name}: {e.strerror or e}") from e


def replaced(artifact: Artifact, file: Path, folder: Path) -> None:
    """Copy an artifact to an empty folder with another ONNX file in place of its own, without the record of how that was made.

    Args:
        artifact: A folder of tokenizer, modules and one ONNX file; of such a file alone nothing else is copied.
        file: Takes its place, with the data beside it.
        folder: Where to; it is empty or not there.

    Raises:
        OSError: when the disk does not take it.
    """
    assert artifact.file is not None
    if folder.exists():
        folder.rmdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (artifact.folder / "modules.json").exists() and artifact.file.is_relative_to(artifact.folder):
        copy_files(artifact.folder, folder)
        (folder / PROVENANCE).unlink(missing_ok=True)
        target = folder / artifact.file.relative_to(artifact.folder)
    else:
        folder.mkdir()
        target = folder / artifact.file.name
    for old in target.parent.glob(f"{target.name}*"):
        old.unlink()
    for new in file.parent.glob(f"{file.name}*"):
        shutil.copyfile(new, target.with_name(f"{target.name}{new.name.removeprefix(file.name)}"))


def describe(artifact: Artifact, model: Model, precision: Precision, folder: Path) -> str:
    """Size, quantized share and calibration of an artifact, and how to judge it in ``folder``."""
    found = {m.name: m for m in measure_artifact(artifact, model, precision.recipe, precision.runtime)}
    share, ratio, held = (found[f"artifact.{n}"] for n in ("quantized_ops", "size_ratio", "quantized_bytes"))
    lines = [
        f"{folder}: {model.name} in {precision}, {artifact.bytes / 1e6:.1f} MB ({ratio.value:.0%} of fp32)",
        f"{share.value:.0%} of the {'embedding tables' if model.static else 'multiplications with weights'} are in the promised "
        "precision",
    ]
    if artifact.file is not None and precision.runtime == "onnx":
        fused, every = attention_fused(Graph.read(artifact.file))
        if every:
            slower = "" if fused == every else "; the others are computed in several operators, which takes longer"
            lines.append(f"attention fused in {fused} of {every} layers{slower}")
    if held.value < 1:
        lines += [f"left in float: {words}" for words in held.worst if "excluded by the recipe" not in words]
    if used := artifact.calibration:
        texts = f"{used['samples']} of {used['of']} texts of {used['source']}, seed {used['seed']}"
        lines.append(f"calibrated on {texts}, SHA-256 {used['sha256']}")
    return "\n".join([*lines, f"judge it: pytest --precision {precision} --artifact={folder}"])
