"""Batches through one ONNX file, the same in every runtime: fed as the file wants it, read as the rule says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders.feeding import LEFT, Feeding
from qguard.encoders.feeds import Feeds
from qguard.encoders.outputs import Output, choose
from qguard.encoders.ports import Port


class Interface:
    """How one file is fed and read.

    Args:
        inputs: What the file takes.
        outputs: What it gives.
        file: The file.
        feeding: What else is known of it.

    Attributes:
        feeds: Fills the inputs.
        output: The output that is read.

    Raises:
        ArtifactProblem: see :class:`qguard.encoders.feeds.Feeds` and :func:`qguard.encoders.outputs.choose`.
    """

    def __init__(self, inputs: Sequence[Port], outputs: Sequence[Port], file: Path, feeding: Feeding | None = None) -> None:
        self._file, self._left = file, feeding is not None and feeding.side == LEFT
        self.feeds: Feeds = Feeds(inputs, file, feeding)
        self.output: Output = choose(outputs, file, feeding.output if feeding else "")

    def reading(self, port: Port) -> Interface:
        """The same that reads another output of the file."""
        other = copy.copy(self)
        other.output = choose([self.output.port, *self.output.others], self._file, port.name)
        return other

    @property
    def room(self) -> int | None:
        """Tokens of a text that the file fixes, or ``None``."""
        return self.feeds.length

    def __call__(self, run: Callable[[dict[str, Any]], Any], input_ids: Any, attention_mask: Any, types: Any = None) -> Any:
        """float32 token embeddings (batch, length, hidden) or finished vectors (batch, dim).

        Args:
            run: Feeds by name → the chosen output of one run.
            input_ids: Token ids (batch, length), padded.
            attention_mask: 1 at tokens, 0 at padding.
            types: Token type ids of pairs; ``None`` for zeros.

        Raises:
            ArtifactProblem: where the batch does not fit the file, or the output has another shape.
        """
        count, length = input_ids.shape
        whole, texts = self.feeds.length or length, self.feeds.batch or count
        runs = self.feeds.runs(input_ids, attention_mask, types)
        found = [self.output(run(feeds), texts, whole, self._file) for feeds in runs]
        values = found[0] if len(found) == 1 else np.concatenate(found)
        values = values[:count] if len(values) > count else values
        if values.ndim == 2 or whole == length:
            return values
        return values[:, whole - length :] if self._left else values[:, :length]
