"""What turns texts into vectors for topics and hardness: fp32 of a model, or any artifact of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qguard.artifacts.artifact import open_artifact
from qguard.console.progress import progress
from qguard.encoders import Floats
from qguard.errors import LibraryProblem, UsageProblem
from qguard.judging.fp32 import fp32_encoder
from qguard.kinds import DENSE, KINDS
from qguard.sampling.topics import Encode

if TYPE_CHECKING:
    from qguard.judging.session import Session

RUNTIME = "onnx"
BLOCK = 256  # texts that are encoded between two looks at the bar


def encode_of(session: Session, model: str, artifact: Path | None = None) -> Encode:
    """Texts and their roles to vectors.

    Args:
        session: Whose configuration names the model.
        model: Its name.
        artifact: A folder or file of ONNX Runtime; ``None`` for fp32, which is given, in the cache, or built now.

    Raises:
        UsageProblem: for a model that gives no vector a text.
        QguardError: where it cannot be opened.
    """
    if (kind := session.kind(model)) != DENSE:
        raise UsageProblem(
            f"topics and hardness are found by one vector a text, and model {model!r} gives {KINDS[kind].gives}; add --no-model"
        )
    if artifact is None:
        try:
            encoder = fp32_encoder(session, model, RUNTIME)
        except LibraryProblem as e:
            raise LibraryProblem(f"{e}; or draw without a model: add --no-model") from e
    else:
        found = open_artifact(artifact, session.model(model), RUNTIME)
        encoder = session.opened(RUNTIME, found, found.file)
    tokenizer = session.reference_tokenizer(model)

    def encode(texts: Sequence[str], roles: Sequence[str | None]) -> Floats:
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # batches of texts of like length
        out: list[Floats] = []
        with progress("finding topics and hardness", len(texts)) as advance:
            for start in range(0, len(order), BLOCK):
                part = order[start : start + BLOCK]
                out.append(encoder.encode_ids(tokenizer([texts[i] for i in part], [roles[i] for i in part])))
                advance(len(part))
        vectors = np.empty((len(texts), out[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(out)
        return vectors

    return encode
