"""summary.md: small, equal bytes for equal data, and a changed line for each text that moved."""

from __future__ import annotations

import numpy as np
import pytest

from qguard.goldens.neighbours import LOOKED_AT, looked_at, nearest
from qguard.goldens.summary import keys_of, listed_texts, summary, text_key


@pytest.fixture(scope="module")
def core(harness):
    found = harness.golden("minilm", "core")
    return harness.suite("core"), found.vectors, found.token_ids


def test_it_is_small_and_the_same_every_time(core):
    suite, vectors, ids = core
    first = summary("minilm", suite, vectors, ids)
    assert first == summary("minilm", suite, vectors.copy(), ids)
    assert len(first) <= 150_000
    assert listed_texts(first) == keys_of(suite)


def test_the_committed_one_is_what_its_golden_gives(core, harness):
    assert harness.golden("minilm", "core").summary == summary("minilm", *core)


def test_a_text_that_moves_changes_its_line_and_those_of_its_neighbours(core):
    suite, vectors, ids = core
    moved = vectors.copy()
    moved[100] = -moved[100]
    before, after = (summary("minilm", suite, v, ids).decode().splitlines() for v in (vectors, moved))
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert any(text_key(suite.texts[100]) in line for _, line in changed)
    assert len(changed) < 40


def test_rounding_changes_no_line(core):
    suite, vectors, ids = core
    noise = np.random.default_rng(0).normal(0, 1e-8, vectors.shape).astype(np.float32)
    before, after = (summary("minilm", suite, v, ids).splitlines() for v in (vectors, vectors + noise))
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 3


def test_nearest_is_exact(core):
    _, vectors, _ = core
    rows = np.arange(0, 1440, 7)
    found, score = nearest(vectors, rows)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -1)
    assert np.abs(scores[rows].max(1) - score).max() < 1e-6
    assert (scores[rows, found] >= scores[rows].max(1) - 1e-6).all()


def test_of_a_large_suite_a_sample_is_looked_at():
    assert len(looked_at(np.empty((10**6, 1), bool))) == LOOKED_AT
    assert looked_at(np.empty((3, 1), bool)).tolist() == [0, 1, 2]
