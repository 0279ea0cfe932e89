"""What surrounds an artifact's weights, held against the model's files: whatever the texts of a suite may not show."""

from __future__ import annotations

from collections.abc import Iterator

from qguard.artifacts.artifact import TOKENIZER_FILES, Artifact
from qguard.encoders.consumers import TokenizerFiles, differences
from qguard.errors import GoldenProblem
from qguard.goldens import Golden
from qguard.models.model import Model

_SHOWN = 3


def prove(artifact: Artifact, model: Model, golden: Golden | None = None) -> None:
    """Every library that reads the artifact's tokenizer gives the model's token ids.

    Args:
        artifact: What is judged. One without a tokenizer of its own takes the model's.
        model: The fp32 model.
        golden: Its tokenizer is right as well, where it stores one.

    Raises:
        GoldenProblem: with each setting that differs, and who obeys it.
        ModelProblem: when a file is missing or damaged.
    """
    found = list(_tokenizer(artifact, model, golden))
    if found:
        shown = "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise GoldenProblem(
            f"the artifact's tokenizer is not the model's: {shown}. Copy {', '.join(TOKENIZER_FILES)} of the model into the "
            "artifact"
        )


def _tokenizer(artifact: Artifact, model: Model, golden: Golden | None) -> Iterator[str]:
    if not artifact.has_files or artifact.tokenizer_root == model.root:
        return
    other = golden.tokenizer if golden else None
    own, found = TokenizerFiles.read(model.root), TokenizerFiles.read(artifact.tokenizer_root)
    length = model.pipeline.max_seq_length
    yield from map(str, differences(own, found, length, exact=model.static, other=other))
