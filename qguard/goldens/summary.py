"""``summary.md``: what a golden holds in lines that a reviewer can compare, derived from its data alone.

The manifest holds its hash. It is for people: the gate reads the data file, ``qguard golden check`` looks at both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from qguard.goldens.neighbours import looked_at, nearest
from qguard.goldens.retrieved import Retrieved
from qguard.outputs import first_values, lengths
from qguard.suites import Suite
from qguard.vectors.similarity import COSINE, Similarity

_EXAMPLES = 12
_ELEMENTS = 3
_ROLE = {"query": "q", "document": "d", None: "-"}
_TABLE = "| text | role | slice | tokens | nearest | "  # then the similarity and the vector


def text_key(text: str) -> str:
    """Ten hexadecimal digits that stand for a text: enough to tell texts apart, none of their words."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def summary(
    model: str,
    suite: Suite,
    vectors: Any,
    token_ids: list[list[int]],
    retrieved: Retrieved | None = None,
    similarity: Similarity = COSINE,
) -> bytes:
    """The text of ``summary.md``: equal bytes for equal data.

    Args:
        model: The model's name.
        suite: The texts.
        vectors: float32 (texts, dim), or the outputs of another kind (:mod:`qguard.outputs`).
        token_ids: One list per text.
        retrieved: Of a large suite, what its queries find.
        similarity: What the model ranks by.
    """
    tokens = np.asarray([len(i) for i in token_ids])
    norms = lengths(vectors)
    rows = looked_at(vectors)
    near, score = nearest(vectors, rows, similarity) if len(vectors) > 1 else (rows, np.ones(len(rows)))
    lines = [
        f"# Golden of {model} on {suite.name}",
        "",
        f"{len(vectors)} texts, {vectors.shape[1]} dimensions. Written by `qguard golden update`; the manifest holds its hash.",
        "",
        *(retrieved.summary(similarity.name) if retrieved else ()),
        f"| slice | texts | tokens, mean | norm, mean | {similarity.name} to the nearest, mean |",
        "|---|--:|--:|--:|--:|",
    ]
    names = np.asarray([s or "" for s in suite.slices])
    for name in ["", *suite.slice_names]:
        part = np.arange(len(names)) if not name else np.flatnonzero(names == name)
        seen = np.isin(rows, part)
        mean = f"{score[seen].mean():.4f}" if seen.any() else ""
        lines.append(f"| {cell(name) or 'all'} | {len(part)} | {tokens[part].mean():.1f} | {norms[part].mean():.4f} | {mean} |")
    if len(vectors) > 1:
        lines += ["", "## Nearest text of some", ""]
        for k in np.unique(np.linspace(0, len(rows) - 1, _EXAMPLES).astype(int)):
            lines.append(f"- {suite.texts[rows[k]][:60]!r} → {suite.texts[near[k]][:60]!r} {score[k]:.4f}")
    every = "One line a text" if len(rows) == len(vectors) else f"One line each for {len(rows)} of {len(vectors)} texts"
    lines += [
        "",
        "## Texts",
        "",
        f"{every}, in the suite's order: a hash of the text, its role (query, document), slice, tokens, the hash and "
        f"{similarity.name} of",
        f"the nearest other text, and the first {_ELEMENTS} elements of the vector.",
        "",
        f"{_TABLE}{similarity.name} | vector |",
        "|---|---|---|--:|---|--:|--:|",
    ]
    keys = {i: text_key(suite.texts[i]) for i in {*rows.tolist(), *near.tolist()}}
    for k, i in enumerate(rows.tolist()):
        start = " ".join(digits(x) for x in first_values(vectors, i, _ELEMENTS))
        cells = (keys[i], _ROLE[suite.roles[i]], cell(names[i]), tokens[i], keys[int(near[k])], f"{score[k]:.4f}", start)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return ("\n".join(lines) + "\n").encode()


def table_of_texts(suite: Suite, tokens: Any, outputs: Sequence[str]) -> list[str]:
    """The table of texts, for outputs that have no nearest text.

    Args:
        suite: The texts.
        tokens: How many each has.
        outputs: The last cell of each.
    """
    lines = ["", "## Texts", "", "One line a pair, in the suite's order: a hash of the pair, its role, slice, tokens and scores."]
    lines += ["", f"{_TABLE}- | scores |", "|---|---|---|--:|---|---|--:|"]
    for i, text in enumerate(suite.texts):
        cells = (text_key(text), _ROLE[suite.roles[i]], cell(suite.slices[i] or ""), tokens[i], "-", "-", outputs[i])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def digits(value: Any) -> str:
    """A value as a summary has it."""
    return f"{float(value) + 0.0:.3f}".replace("-0.000", "0.000")


def cell(text: str) -> str:
    """A text as one cell of a table, whatever it holds."""
    return " ".join(text.replace("|", "/").split())


def listed_texts(data: bytes) -> list[tuple[str, str]]:
    """Hash and role of each text that a summary lists, in its order."""
    _, found, table = data.decode("utf-8", "replace").partition(_TABLE)
    rows = [line.split(" | ") for line in table.splitlines()[2:]] if found else []
    return [(cells[0].removeprefix("| "), cells[1]) for cells in rows if len(cells) > 2]


def keys_of(suite: Suite) -> list[tuple[str, str]]:
    """Hash and role of every text of a suite."""
    return [(text_key(t), _ROLE[r]) for t, r in zip(suite.texts, suite.roles, strict=True)]
