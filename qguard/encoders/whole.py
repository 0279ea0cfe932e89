"""What a runtime is given that reads texts and files: everything from a text to its vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qguard.encoders.feeding import Feeding
from qguard.models.pipeline import Pipeline


@dataclass(frozen=True)
class Whole:
    """A model as its runtime finds it.

    Attributes:
        file: The file that holds the network.
        configuration: The folder of ``config.json``.
        tokenizer: The folder of ``tokenizer.json``.
        pipeline: What surrounds the network.
        feeding: What the file does not say of its inputs and outputs.
    """

    file: Path
    configuration: Path
    tokenizer: Path
    pipeline: Pipeline
    feeding: Feeding = field(default_factory=Feeding)
