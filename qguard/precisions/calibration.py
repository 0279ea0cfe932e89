"""Calibration texts: where they come from, which of them are used, and that they are not those that judge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from qguard.errors import DataProblem, UsageProblem
from qguard.files import sha256_json
from qguard.kinds import CROSS_ENCODER
from qguard.models.pipeline import ROLES, Pipeline
from qguard.suites.paired import TextPair
from qguard.suites.source import Source

# Written for calibration alone: no text of it is in a built-in suite, so that the default never judges what it was tuned on.
SHIPPED = Path(__file__).with_name("calibration.jsonl")


@dataclass(frozen=True)
class Sample:
    """The texts that a recipe sees.

    Attributes:
        texts: In the order in which they are used.
        roles: ``"query"``, ``"document"`` or ``None`` of each; decides its prompt.
        facts: Source, size, seed and hashes as they stand in an artifact's provenance, and in its cache key.
    """

    texts: tuple[str, ...]
    roles: tuple[str | None, ...]
    facts: Mapping[str, Any]

    def roles_of(self, pipeline: Pipeline) -> tuple[str | None, ...]:
        """The role of each text, for a model: of one that fills queries up, texts without a role are queries and documents by
        turns, because its queries hold a token that no other text has.
        """
        if pipeline.late is None:
            return self.roles
        names = tuple(ROLES)
        return tuple(role or names[i % 2] for i, role in enumerate(self.roles))


@dataclass(frozen=True, order=True)
class Calibration:
    """Which texts calibrate.

    Attributes:
        path: A file or folder of a suite, or where and how a configured suite is read.
        source: Its name for people and provenance.
        samples: How many texts are drawn; all, where there are fewer.
        seed: Of the draw.
        overlap: ``"allow"`` where texts that calibrate may also judge.
    """

    path: Path | Source = SHIPPED
    source: str = "qguard"
    samples: int = 300
    seed: int = 0
    overlap: Literal["refuse", "allow"] = "refuse"

    @cached_property
    def sample(self) -> Sample:
        """The texts, drawn by the hash of seed and text: the order and the format of the file do not matter.

        Raises:
            DataProblem: when the file cannot be read, or holds blank texts alone.
        """
        from qguard.suites.reader import read_suite

        source = self.path if isinstance(self.path, Source) else Source(str(self.path))
        suite = read_suite(self.source, replace(source, duplicates="keep"))  # a text that is there twice counts once
        rows = [(t, r) for t, r in zip(suite.texts, suite.roles, strict=True) if t.strip()]
        if not rows:
            raise DataProblem(f"{self.path.name} holds no text to calibrate with")
        rows.sort(key=lambda row: hashlib.sha256(f"{self.seed}\n{row[1]}\n{row[0]}".encode()).digest())
        texts, roles = zip(*rows[: self.samples], strict=True)
        facts = {
            "source": self.source, "samples": len(texts), "of": len(rows), "seed": self.seed,
            "sha256": sha256_json([texts, roles]), "texts": sorted({_mark(t) for t in texts}),
        }  # fmt: skip
        return Sample(texts, roles, facts)

    def refuse_overlap(self, precision: str, facts: Mapping[str, Any], suite: str, texts: Iterable[str]) -> None:
        """Texts that an artifact was calibrated on say little when they also judge it.

        Args:
            precision: Its name in the configuration.
            facts: Of the calibration (:attr:`Sample.facts`), possibly read from another machine's artifact.
            suite: Name of the suite that judges.
            texts: Its texts.

        Raises:
            UsageProblem: when there are common texts, unless ``overlap`` allows them. Case and spaces do not matter.
        """
        marks = facts.get("texts")
        if self.overlap == "allow" or not isinstance(marks, list):
            return
        known, texts = set(marks), list(texts)
        common = [t for t in texts if t.strip() and _mark(t) in known]
        if common:
            raise UsageProblem(
                f"{precision} is calibrated on {facts.get('samples')} texts of {facts.get('source')!r}, and {len(common)} of the "
                f"{len(texts)} texts of suite {suite!r} that judge it are among them, for example {common[0][:60]!r}; calibrate "
                f'on other texts, or say that it is intended: overlap = "allow" under [tool.qguard.precision.{precision}]'
            )


def inputs_of(sample: Sample, pipeline: Pipeline) -> tuple[Sequence[str], Sequence[str | None]]:
    """The texts of a sample as a model of a kind reads them, and their roles.

    A cross-encoder reads pairs: each text in two halves, which belong together, and its first half with the next text, which
    mostly has nothing to do with it.
    """
    if pipeline.kind != CROSS_ENCODER:
        return sample.texts, sample.roles_of(pipeline)
    halves = [TextPair.of(text) for text in sample.texts]
    others = [TextPair(a.first, b) for a, b in zip(halves, [*sample.texts[1:], sample.texts[0]], strict=True)]
    pairs = [pair for both in zip(halves, others, strict=True) for pair in both]
    return pairs, [None] * len(pairs)


# One object, so that qguard's own texts are read once in a process
DEFAULT = Calibration()


def _mark(text: str) -> str:
    """Eight bytes that tell a text apart, so that provenance need not hold the texts themselves."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()[:16]
