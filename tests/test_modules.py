"""Modules of sentence-transformers: what a folder declares, and the same vectors in NumPy."""

from __future__ import annotations

import pytest

from qguard.models.modules import Dense, Normalize, Pooling
from qguard.models.pipeline import Pipeline

# recorded with the release that first had goldens: a golden holds this hash, and stays valid as long as nothing changes
HASHES = {
    "b6749f73881df9862b2648e9adb23d0ddc324feb21b2e483a2965260320d64e0": Pipeline(),
    "9ab04296376261d2c3a40f47438df07cdd49abcda4880cb7e79a88a64b07cf9f": Pipeline(
        (Pooling("1_Pooling"), Normalize("2_Normalize")), max_seq_length=256
    ),
    "7be1ecaab41d1aeaae27e407419d6cdc8c7df928acad5da2fa85ac0541e657be": Pipeline(
        (
            Pooling("1_Pooling", ("cls", "mean")),
            Dense("2_Dense", "Tanh", True),
            Dense("3_Dense", "Identity", False),
            Normalize("4_Normalize"),
        ),
        max_seq_length=384,
        do_lower_case=True,
        prompts={"a": "x: ", "query": "q: "},
        default_prompt="a",
        transformer="0_Transformer",
    ),
    "126e088b4bd96f6a7b521afc4223a20283791727e600becb0c18603dcefe2dbf": Pipeline((Pooling("", ("lasttoken",), False),)),
}


@pytest.mark.parametrize("digest", HASHES)
def test_the_hash_of_a_pipeline_stays(digest):
    assert HASHES[digest].sha256() == digest


def test_what_the_old_form_does_not_tell_has_another_hash():
    pooling, dense = Pooling("1_Pooling"), Dense("2_Dense")
    told = Pipeline((pooling, dense))
    others = [
        Pipeline((pooling, Normalize("2_Normalize"), dense)),
        Pipeline((Dense("2_Dense", source="token_embeddings", target="token_embeddings"), pooling)),
        Pipeline((pooling, Dense("2_Dense", residual="input"))),
        Pipeline((pooling, dense), first="StaticEmbedding"),
    ]
    assert "modules" not in told.declared()
    assert len({p.sha256() for p in (told, *others)}) == 5
