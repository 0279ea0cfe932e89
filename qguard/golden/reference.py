"""fp32 outputs by sentence-transformers, and the independent path that must agree before they are stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qguard.errors import GoldenProblem
from qguard.models import Model
from qguard.suites import Suite

# The independent path differs from sentence-transformers only by rounding.
AGREEMENT = 1e-5
PATHS = {"recorded": "sentence-transformers", "confirmed": "Transformers with the declared pooling"}


def fp32_outputs(model: Model, suite: Suite) -> tuple[NDArray[np.float32], list[list[int]]]:
    """float32 vectors (texts, dim) and token ids by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    st = SentenceTransformer(str(model.folder), device="cpu", trust_remote_code=False, local_files_only=True)
    st.float()
    if "max_seq_length" in model.settings:
        st.max_seq_length = model.pipeline.max_seq_length
    st.default_prompt_name = None  # every text gets the prompt of its role, which the pipeline knows
    prefixes = [model.pipeline.prefix(role) for role in suite.roles]
    parts = {}
    for prefix in dict.fromkeys(prefixes):
        rows = [i for i, p in enumerate(prefixes) if p == prefix]
        texts = [suite.texts[i] for i in rows]
        parts[prefix] = rows, st.encode(texts, prompt=prefix or None, show_progress_bar=False, convert_to_numpy=True)
    vectors = np.empty((len(suite.texts), next(iter(parts.values()))[1].shape[1]), np.float32)
    for rows, found in parts.values():
        vectors[rows] = found
    ids: list[list[int]] = []
    for prefix, text in zip(prefixes, suite.texts, strict=True):
        features = st.preprocess([prefix + text])
        ids.append([int(i) for i in features["input_ids"][0]])
    return vectors, ids


def confirm(model: Model, suite: Suite, vectors: NDArray[np.float32], token_ids: list[list[int]]) -> None:
    """Plain Transformers with the declared pooling must agree before anything is written."""
    from qguard.encoders import open_encoder

    if not np.isfinite(vectors).all():
        raise GoldenProblem("sentence-transformers returned NaN or infinite values in fp32; nothing was written")
    encoder = open_encoder("torch", model.folder, model.pipeline, "fp32")
    for i, (want, found) in enumerate(zip(token_ids, encoder.tokenizer(suite.texts, suite.roles), strict=True)):
        if want != found:
            raise GoldenProblem(
                f"the independent tokenizer disagrees with sentence-transformers on text {i} ({suite.texts[i][:60]!r}): "
                f"{found[:8]}… against {want[:8]}…; nothing was written"
            )
    other = encoder.encode_ids(token_ids).astype(np.float64)
    scale = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    error = np.abs(other - vectors).max(1) / scale
    if error.max() > AGREEMENT:
        raise GoldenProblem(
            f"the independent path (plain Transformers, declared pooling) disagrees with sentence-transformers: largest "
            f"difference {error.max():.2g} on {suite.texts[int(error.argmax())][:60]!r}, allowed {AGREEMENT}; nothing was written"
        )
