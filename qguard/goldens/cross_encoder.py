"""Scores of pairs by sentence-transformers, and what its evaluators would say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import GoldenProblem
from qguard.goldens.summary import cell, digits, table_of_texts
from qguard.models.model import Model
from qguard.models.pipeline import Scoring
from qguard.suites import Suite
from qguard.suites.paired import TextPair


def encoded(st: Any, model: Model, role: str | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits float32 (pairs, labels) by sentence-transformers, before any activation.

    Args:
        st: Its ``CrossEncoder``.
        model: The model.
        role: Of the pairs; their prompt is that of no role.
        texts: Pairs (:class:`qguard.suites.paired.TextPair`).
    """
    import torch

    pairs = [(pair.first, pair.second) for pair in map(TextPair.of, texts)]
    prompt = model.pipeline.prefix(role) or None
    found = st.predict(pairs, prompt=prompt, activation_fn=torch.nn.Identity(), apply_softmax=False, show_progress_bar=False)
    return np.asarray(found, np.float32).reshape(len(pairs), -1)


def preprocessed(st: Any, model: Model, texts: Sequence[str]) -> list[tuple[list[int], list[int] | None]]:
    """Token ids and, where the tokenizer gives them, token type ids of each pair, as sentence-transformers feeds them."""
    prompt = model.pipeline.prefix() or None
    out = []
    for pair in map(TextPair.of, texts):  # one at a time, so that nothing is padded
        features = st.preprocess([(pair.first, pair.second)], prompt=prompt)
        types = features.get("token_type_ids")
        out.append((features["input_ids"][0].tolist(), None if types is None else types[0].tolist()))
    return out


def refuse_other_types(suite: Suite, own: Sequence[Any], theirs: Sequence[tuple[list[int], list[int] | None]]) -> None:
    """The token type ids that qguard feeds are those that sentence-transformers feeds.

    Args:
        suite: The pairs.
        own: Token ids with their types, by the tokenizer alone.
        theirs: What :func:`preprocessed` gave.

    Raises:
        GoldenProblem: with the first pair of which they are not; types of zeros and none are the same.
    """
    for i, (row, (_, types)) in enumerate(zip(own, theirs, strict=True)):
        mine, yours = list(row.types or []), list(types or [])
        if (any(mine) or any(yours)) and mine != yours:
            raise GoldenProblem(
                f"the independent tokenizer gives other token type ids than sentence-transformers for pair {i} "
                f"({suite.texts[i][:60]!r}): {mine[:12]}… against {yours[:12]}…. Say in tokenizer_config.json what it gives: "
                '"model_input_names": ["input_ids", "attention_mask"], with "token_type_ids" or without; nothing was written'
            )


def summary(model: str, suite: Suite, scores: NDArray[Any], token_ids: Sequence[Sequence[int]], scoring: Scoring) -> bytes:
    """The text of ``summary.md`` of a cross-encoder's golden: equal bytes for equal data.

    Args:
        model: The model's name.
        suite: The pairs.
        scores: Logits float32 (pairs, labels).
        token_ids: One list per pair.
        scoring: What the logits mean.
    """
    tokens, first = np.asarray([len(i) for i in token_ids]), scores[:, 0]
    labels = ", ".join(scoring.labels)
    stage = suite.first_stage
    lines = [
        f"# Golden of {model} on {suite.name}",
        "",
        f"{len(scores)} pairs, logits of {scores.shape[1]} label(s): {labels}; activation: {scoring.activation}. "
        "Written by `qguard golden update`; the manifest holds its hash.",
        "",
        *([f"Candidates: the first {stage['top']} that {stage['model']} finds for each query.", ""] if stage else []),
        f"{len(suite.groups)} queries with candidates, {len(suite.pairs)} pairs of their own.",
        "",
        "| slice | pairs | tokens, mean | logit of the first label: least | mean | greatest |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    names = np.asarray([s or "" for s in suite.slices])
    for name in ["", *suite.slice_names]:
        part = np.arange(len(names)) if not name else np.flatnonzero(names == name)
        low, mean, high = (digits(f(first[part])) for f in (np.min, np.mean, np.max))
        lines.append(f"| {cell(name) or 'all'} | {len(part)} | {tokens[part].mean():.1f} | {low} | {mean} | {high} |")
    if suite.groups and scores.shape[1] == 1:
        lines += ["", "## First candidate of some queries", ""]
        for k in np.unique(np.linspace(0, len(suite.groups) - 1, 12).astype(int)):
            group = suite.groups[k]
            best = max(group.members, key=lambda i: first[i])
            pair = TextPair.of(suite.texts[best])
            lines.append(f"- {group.query[:60]!r} → {pair.second[:60]!r} {digits(first[best])}")
    told = [" ".join(digits(x) for x in row) for row in scores]
    return ("\n".join([*lines, *table_of_texts(suite, tokens, told)]) + "\n").encode()
