"""The kinds of models, by what they give for a text: the terms of sentence-transformers 6.

A kind brings its outputs (:mod:`qguard.outputs`), its similarity (:mod:`qguard.vectors.similarity`), its metric families
(:mod:`qguard.families`) and its default gates (:mod:`qguard.precisions.bounds`). Golden, artifact, report and attestation carry
its name.
"""

from __future__ import annotations

from dataclasses import dataclass

DENSE, CROSS_ENCODER, SPARSE, MULTI_VECTOR = "dense", "cross-encoder", "sparse", "multi-vector"


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: As configuration, golden and report have it.
        model_type: Its class in sentence-transformers, which ``config_sentence_transformers.json`` names.
        package: The part of sentence-transformers whose modules only this kind has.
        gives: What it gives for an input, in words.
        noun: What it reads, in the plural.
    """

    name: str
    model_type: str
    package: str
    gives: str
    noun: str = "texts"


KINDS = {
    k.name: k
    for k in (
        Kind(DENSE, "SentenceTransformer", "sentence_transformer", "one vector to a text"),
        Kind(CROSS_ENCODER, "CrossEncoder", "cross_encoder", "scores for a pair of texts", "pairs"),
        Kind(SPARSE, "SparseEncoder", "sparse_encoder", "a weight to each word of the vocabulary"),
        Kind(MULTI_VECTOR, "MultiVectorEncoder", "multi_vector_encoder", "a vector to each token"),
    )
}


def in_words(name: str) -> str:
    """A kind and what it gives: ``dense (one vector to a text)``; a name that no kind has alone."""
    found = KINDS.get(name)
    return name if found is None else f"{name} ({found.gives})"


def kind_of_type(model_type: str) -> str | None:
    """The kind whose class in sentence-transformers has this name; ``None`` for another class."""
    return next((k.name for k in KINDS.values() if k.model_type == model_type), None)


def kind_of_package(package: str) -> str | None:
    """The kind whose modules this part of sentence-transformers holds; ``None`` for modules that several kinds have."""
    found = next((k.name for k in KINDS.values() if k.package == package), None)
    return None if found == DENSE else found
