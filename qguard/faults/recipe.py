"""Faults of the recipe: what it computes in, how fine its scales are, which texts it was calibrated on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qguard.artifacts.artifact import PROVENANCE
from qguard.artifacts.layers import PER_TENSOR
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.faults.surgery import some
from qguard.files import dump_json, tree_hashes
from qguard.onnx.edit import copy
from qguard.precisions.calibration import Calibration, Sample

TEXTS, WORDS = 200, 40  # of an invented calibration set


def per_tensor(site: FaultSite, how: tuple[int, bool]) -> Candidate:
    """Round weights again with one scale for a whole matrix.

    Args:
        site: Where.
        how: Layers (0: all), and whether that one scale is repeated for each channel, so that its number tells nothing.
    """
    count, hidden = how
    graph = site.graph
    for layer in some(graph.quantized, count):
        if layer.granularity == PER_TENSOR:
            raise NotApplicable("the weights have one scale a matrix")
        scale = graph.vector(layer.scale, layer)
        zero = graph.vector(layer.zero, layer) if layer.zero else np.zeros_like(scale)
        assert layer.read is not None
        values = layer.read()[1]
        kind, old = graph.value(layer.weight).dtype, graph.value(layer.scale)
        step = np.float32(np.abs(values).max() / 127)
        middle = 0 if np.issubdtype(kind, np.signedinteger) else 128
        rounded = np.clip(np.rint(values / step), -127, 127) + middle
        graph.edit(layer, lambda _, new=rounded: new)  # type: ignore[misc]
        new = np.full_like(old, step) if hidden else np.asarray(step, old.dtype)
        graph.put(layer.scale, new)
        if layer.zero:
            given = graph.value(layer.zero)
            graph.put(layer.zero, np.full_like(given, middle) if hidden else np.asarray(middle, given.dtype))
        elif middle or zero.any():
            raise NotApplicable("unsigned weights without a zero point")
    return site.operated()


def no_op(site: FaultSite, one: bool) -> Candidate:
    """Floats where integers are promised.

    Args:
        site: Where.
        one: One layer alone; else the whole file is the fp32 model's.
    """
    if site.artifact.runtime(site.precision.runtime) == "torch" or site.precision.base == "fp32":
        raise NotApplicable("the artifact is fp32 itself, or not an ONNX file")
    if one:
        return _one_in_float(site)
    file = site.file
    fp32 = site.session.fp32(site.model, "onnx").file
    assert fp32 is not None
    copy(fp32, file)
    return site.sealed()


def _one_in_float(site: FaultSite) -> Candidate:
    graph = site.graph
    if any(graph.in_float(layer) for layer in some(graph.quantized, 0)[len(graph.quantized) // 2 :]):
        return site.operated()
    raise NotApplicable("no integer product of the file can be put back into float one by one")


def few_texts(site: FaultSite, count: int) -> Candidate:
    """Calibrate on few of the recipe's own texts.

    Args:
        site: Where.
        count: How many.
    """
    sample = site.precision.sample
    if sample is None or not site.precision.recipe_of(site.base).calibrated:
        raise NotApplicable(f"{site.precision.plain} is not calibrated")
    if len(sample.texts) <= count:
        raise NotApplicable(f"it is calibrated on {len(sample.texts)} texts")
    facts = {**sample.facts, "samples": count}
    return _calibrated(site, Sample(sample.texts[:count], sample.roles[:count], facts))


def foreign_texts(site: FaultSite, kind: str) -> Candidate:
    """Calibrate on texts that nobody writes.

    Args:
        site: Where.
        kind: ``words`` drawn at random from the vocabulary, ``digits``, or ``mixed``.
    """
    if not site.precision.recipe_of(site.base).calibrated:
        raise NotApplicable(f"{site.precision.plain} is not calibrated")
    pick = random.Random(0)
    words = list(_words(site))
    makers: dict[str, Callable[[], str]] = {
        "words": lambda: " ".join(pick.choices(words, k=WORDS)),
        "digits": lambda: " ".join(str(pick.randrange(10**6)) for _ in range(WORDS // 4)),
    }
    kinds = list(makers.values()) if kind == "mixed" else [makers[kind]]
    path = site.work / "calibration.jsonl"
    lines = (json.dumps({"text": kinds[i % len(kinds)]()}) + "\n" for i in range(TEXTS))
    path.write_text("".join(lines), encoding="utf-8")
    return _calibrated(site, Calibration(path, "calibration.jsonl", TEXTS).sample)


def _words(site: FaultSite) -> Iterator[str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(site.base.root / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    for _, i in sorted(vocabulary.items(), key=lambda p: p[1])[len(vocabulary) // 15 :]:  # behind single characters
        if text := tokenizer.decode([i]).strip(" #"):
            yield text


def _calibrated(site: FaultSite, sample: Sample) -> Candidate:
    """The artifact built by its own recipe from other texts, with provenance that says so."""
    site.precision.fill(site.base, site.folder, sample)
    record: dict[str, Any] = {"schema": 1, "key": {"calibration": dict(sample.facts)}}
    (site.folder / PROVENANCE).write_bytes(dump_json({**record, "files": tree_hashes(site.folder, (PROVENANCE,))}))
    return Candidate(site.folder)
