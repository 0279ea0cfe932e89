"""What moves when a golden is recorded anew, in lines for the person who decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.goldens.marked import KEY, said
from qguard.goldens.neighbours import looked_at, nearest
from qguard.goldens.quality import compare_quality
from qguard.goldens.reference import AGREEMENT, DRIFT
from qguard.goldens.retrieved import Retrieved
from qguard.goldens.stored import SUMMARY, Golden
from qguard.goldens.summary import keys_of, listed_texts
from qguard.goldens.tokens import token_change
from qguard.models.model import Model
from qguard.suites import Suite
from qguard.vectors.similarity import Similarity, similarity_of

_SHOWN = 5
# What a golden rests on, besides its suite: these change only when somebody names them; see qguard.goldens.consent.
PARTS = ("weights", "tokenizer", "pipeline", "stack", "quality")


@dataclass(frozen=True)
class Review:
    """The difference between the stored golden and the one about to replace it.

    Attributes:
        name: ``model/suite``.
        new: That there is no older golden.
        changed: Something would be stored.
        parts: What changed, of :data:`PARTS`: ``stack`` is fp32 vectors that move although weights, tokenizer and pipeline are
            the same; ``quality`` is a labeled score that falls by more than its noise.
        details: Part → what changed in it, in words.
        lines: Everything that moves, ready to be printed.
        left_out: The texts of the suite that the golden holds no vector of, each with why.
    """

    name: str
    new: bool
    changed: bool
    parts: tuple[str, ...]
    details: dict[str, str]
    lines: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What moves, one line each below the golden's name."""
        return "\n".join([f"{self.name}:", *(f"  {line}" for line in (*self.lines, *self.without))])

    @property
    def without(self) -> tuple[str, ...]:
        """What is left out, in lines."""
        return (f"texts left out: {len(self.left_out)}", *(f"  {t}" for t in self.left_out)) if self.left_out else ()


def first_review(name: str, texts: int, problem: str = "") -> Review:
    """The review of a golden that replaces none, or one that cannot be read, which ``problem`` then says."""
    words = f"the stored golden cannot be compared: {problem}" if problem else "no golden yet"
    return Review(name, True, True, (), {}, (f"{words}; {texts} texts recorded",))


def review(
    name: str,
    old: Golden,
    model: Model,
    suite: Suite,
    vectors: Any,
    ids: list[list[int]],
    manifest: dict[str, Any],
    retrieved: Retrieved | None = None,
) -> Review:
    """Compare an old golden with new outputs.

    Args:
        name: ``model/suite``.
        old: What is stored.
        model: The fp32 model.
        suite: Its texts.
        vectors: float32 (texts, dim) or the outputs of another kind (:mod:`qguard.outputs`), recorded now.
        ids: Token ids, recorded now.
        manifest: What would be stored with them.
        retrieved: Of a large suite, what its queries find now.
    """
    was, now = old.manifest["hashes"], manifest["hashes"]
    differs = [part for part in now if was[part] != now[part]]
    was_left, now_left = old.left_out, dict(manifest.get("left_out", []))
    other = "suite" in differs or list(was_left) != list(now_left)
    source = [said(m) or "the model's own files" for m in (old.manifest, manifest)]
    elsewhere = (KEY in old.manifest) != (KEY in manifest)
    same = not differs and was_left == now_left and old.manifest["data_sha256"] == manifest["data_sha256"] and not elsewhere
    changed = not same or old.manifest.get("summary_sha256") != manifest["summary_sha256"] or not old.summary_is_whole
    lines = [f"against the golden of {old.manifest['date']} ({old.manifest['reason']})"]
    details = {part: f"{was[part][:8]} → {now[part][:8]}" for part in differs}
    if "pipeline" in differs and (words := _declared(old.manifest.get("pipeline"), manifest["pipeline"])):
        details["pipeline"] += f" ({words})"
    if other and "suite" not in differs:
        words = f"texts that are left out: {len(was_left)} → {len(now_left)}"
        details["tokenizer"] = f"{details['tokenizer']}; {words}" if "tokenizer" in details else words
    lines += [f"{part}: {words}" for part, words in details.items()]
    if source != ["the model's own files"] * 2:
        lines.append(f"recorded from: {source[0]} → {source[1]}")
    if versions := _versions(old.manifest.get("versions", {}), manifest["versions"]):
        lines.append(f"versions: {versions}")
    before, after = _kept(old, suite, other)
    similarity = similarity_of(model.pipeline).fitted(old.vectors, model.pipeline.declared())
    lines += _texts(len(old.vectors), len(vectors), len(before), other)
    if len(before):
        tokens = token_change([old.token_ids[i] for i in before], [ids[i] for i in after], model)
        lines.append(f"tokens: {tokens or 'none changes'}")
        if tokens:
            details["tokenizer"] = f"{details['tokenizer']}: {tokens}" if "tokenizer" in details else tokens
        change = similarity.change(old.vectors[before], vectors[after])
        lines += _moved(suite, change, old.vectors[before], vectors[after], after, similarity)
        if change.max() > DRIFT and not set(details) - {"suite"}:
            details["stack"] = f"fp32 itself moved by up to {change.max():.2g} with the same weights, tokenizer and pipeline" + (
                f"; {versions}" if versions else "; no recorded version changed"
            )
        lines += [] if suite.of_pairs else _neighbours(suite, old, vectors, before, after, similarity)
    if not other and old.retrieved and retrieved:
        queries, tokens = old.retrieved.moved(retrieved)
        lines += [queries, f"tokens: {tokens or 'no token of a document changes'}"]
        if tokens:
            details["tokenizer"] = f"{details['tokenizer']}; {tokens}" if "tokenizer" in details else tokens
    if not other:
        scores = compare_quality(suite, old.vectors, vectors, similarity)
        lines += [f"labels: {q}" for q in scores]
        if fallen := [q for q in scores if q.fell > 0]:
            details["quality"] = "; ".join(map(str, fallen))
    if same and changed:
        lines.append(f"{SUMMARY}: written again; the data do not change")
    return Review(name, False, changed, tuple(p for p in PARTS if p in details), details, tuple(lines))


def _declared(old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    """Which declarations of the pipeline differ; goldens of older versions hold its hash alone."""
    if old is None:
        return f"now pooling {'+'.join(new['pooling'])}, normalize {str(new['normalize']).lower()}"
    both = [*new, *(key for key in old if key not in new)]
    return ", ".join(f"{key} {old.get(key)} → {new.get(key)}" for key in both if old.get(key) != new.get(key))


def _versions(old: dict[str, str], new: dict[str, str]) -> str:
    return ", ".join(f"{k} {old.get(k, 'absent')} → {new[k]}" for k in new if k in old and old[k] != new[k])


def _kept(old: Golden, suite: Suite, other_suite: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the old golden and of the new that hold the same text; of another suite as far as its summary lists them."""
    if not other_suite:
        rows = np.arange(len(old.vectors))
        return rows, rows
    listed = listed_texts(old.summary) if old.summary is not None else []
    if len(listed) != len(old.vectors):  # a sample of a large suite does not say which rows they are
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = {key: i for i, key in enumerate(listed)}
    pairs = [(at[key], i) for i, key in enumerate(keys_of(suite)) if key in at]
    return np.asarray([a for a, _ in pairs], np.int64), np.asarray([b for _, b in pairs], np.int64)


def _texts(old: int, new: int, kept: int, other_suite: bool) -> list[str]:
    if not other_suite:
        return [f"texts: {new}"]
    if not kept:
        return [f"texts: {old} → {new}, no text is known to be kept, so nothing else can be compared"]
    return [f"texts: {old} → {new}: {new - kept} new, {old - kept} gone; the comparison covers the {kept} that stay"]


def _moved(
    suite: Suite, change: NDArray[np.float64], old: Any, new: Any, rows: NDArray[np.int64], similarity: Similarity
) -> list[str]:
    moved = int((change > AGREEMENT).sum())
    if not moved:
        return [f"vectors: 0 of {len(change)} texts moved, largest change {change.max():.2g}"]
    if old.shape != new.shape:
        return [f"vectors: {old.shape[1]} → {new.shape[1]} dimensions"]
    found = similarity.nearness(old, new)
    worst = int(found.argmin())
    return [
        f"vectors: {moved} of {len(change)} texts moved, largest change {change.max():.2g}, "
        f"worst cosine {found[worst]:.4f}: {suite.texts[rows[worst]][:60]!r}"
    ]


def _neighbours(
    suite: Suite,
    old: Golden,
    vectors: Any,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    similarity: Similarity,
) -> list[str]:
    """The first neighbor of each text among those that stay, before and after."""
    if len(before) < 2:
        return []
    rows = looked_at(old.vectors[before])
    was, _ = nearest(old.vectors[before], rows, similarity)
    now, _ = nearest(vectors[after], rows, similarity)
    changed = np.flatnonzero(was != now)
    lines = [f"first neighbors: {len(changed)} of {len(rows)} change"]
    for k in changed[:_SHOWN]:
        text, a, b = (suite.texts[after[i]][:40] for i in (rows[k], was[k], now[k]))
        lines.append(f"  {text!r}: {a!r} → {b!r}")
    return lines
