"""fp32 outputs by sentence-transformers, and the independent path that must agree before they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import GoldenProblem
from qguard.models import Model
from qguard.progress import progress
from qguard.quiet import quiet_transformers
from qguard.suites import Suite

# The independent path differs from sentence-transformers only by rounding.
AGREEMENT = 1e-5
# fp32 of another runtime, version or CPU differs from a golden by some 1e-6; a hundred times that is no rounding.
DRIFT = 1e-4
PATHS = {"recorded": "sentence-transformers", "confirmed": "Transformers with the declared pooling"}


def open_fp32(model: Model) -> Any:
    """The model in sentence-transformers, fp32 on the CPU."""
    quiet_transformers()
    from sentence_transformers import SentenceTransformer

    st = SentenceTransformer(str(model.folder), device="cpu", trust_remote_code=False, local_files_only=True)
    st.float()
    if "max_seq_length" in model.settings:
        st.max_seq_length = model.pipeline.max_seq_length
    st.default_prompt_name = None  # every text gets the prompt of its role, which the pipeline knows
    return st


def encode_texts(st: Any, prefix: str, texts: list[str]) -> NDArray[np.float32]:
    """float32 vectors (n, dim) of n texts, each after the same prompt."""
    found: NDArray[np.float32] = st.encode(texts, prompt=prefix or None, show_progress_bar=False, convert_to_numpy=True)
    return found


def preprocess(st: Any, texts: list[str], batch: int = 256) -> list[list[int]]:
    """Token ids of n texts, padding taken off."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), batch):
        features = st.preprocess(texts[start : start + batch])
        for row, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
            ids.append(row[mask.bool()].tolist())
    return ids


def fp32_outputs(model: Model, suite: Suite) -> tuple[NDArray[np.float32], list[list[int]]]:
    """float32 vectors (texts, dim) and token ids by sentence-transformers."""
    st = open_fp32(model)
    prefixes = [model.pipeline.prefix(role) for role in suite.roles]
    parts = {}
    with progress(f"{model.name}: {len(suite.texts)} texts of {suite.name} by sentence-transformers", None):
        for prefix in dict.fromkeys(prefixes):
            rows = [i for i, p in enumerate(prefixes) if p == prefix]
            parts[prefix] = rows, encode_texts(st, prefix, [suite.texts[i] for i in rows])
    vectors = np.empty((len(suite.texts), next(iter(parts.values()))[1].shape[1]), np.float32)
    for rows, found in parts.values():
        vectors[rows] = found
    return vectors, preprocess(st, [prefix + text for prefix, text in zip(prefixes, suite.texts, strict=True)], 1)


def confirm(
    model: Model, suite: Suite, vectors: NDArray[np.float32], token_ids: list[list[int]]
) -> dict[str, NDArray[np.float32]]:
    """Plain Transformers with the declared pooling must agree before anything is written.

    Returns:
        Its vectors under the declared pooling, first, and under others; see :func:`qguard.golden.pooling.by_pooling`.

    Raises:
        GoldenProblem: when token ids differ, vectors differ by more than :data:`AGREEMENT`, or they are not finite.
    """
    from qguard.encoders import open_encoder
    from qguard.golden.pooling import by_pooling

    if not np.isfinite(vectors).all():
        raise GoldenProblem("sentence-transformers returned NaN or infinite values in fp32; nothing was written")
    encoder = open_encoder("torch", model.folder, model.pipeline, "fp32")
    for i, (want, found) in enumerate(zip(token_ids, encoder.tokenizer(suite.texts, suite.roles), strict=True)):
        if want != found:
            raise GoldenProblem(
                f"the independent tokenizer disagrees with sentence-transformers on text {i} ({suite.texts[i][:60]!r}): "
                f"{found[:8]}… against {want[:8]}…; nothing was written"
            )
    pooled = by_pooling(encoder, token_ids)
    error = relative_change(vectors, next(iter(pooled.values())))
    if not error.max() <= AGREEMENT:
        raise GoldenProblem(
            f"the independent path (plain Transformers, declared pooling) disagrees with sentence-transformers: largest "
            f"difference {error.max():.2g} on {suite.texts[int(error.argmax())][:60]!r}, allowed {AGREEMENT}; nothing was written"
        )
    return pooled


def relative_change(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.float64]:
    """Largest change of an element of each vector, over the length of the old one: (texts,), at least 0.

    Args:
        old: (texts, dim).
        new: (texts, dim); of another dimension everything changed, which is infinity.
    """
    if old.shape != new.shape:
        return np.full(len(old), np.inf)
    scale = np.maximum(np.linalg.norm(old.astype(np.float64), axis=1), 1e-12)
    return np.asarray(np.abs(new.astype(np.float64) - old).max(1) / scale)
