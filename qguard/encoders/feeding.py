"""What surrounds an ONNX file that its inputs and outputs do not say themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.models.pipeline import first_position, read_optional

if TYPE_CHECKING:
    from qguard.encoders.tokenizer import TextTokenizer
    from qguard.models.model import Model

LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class Feeding:
    """How a file is to be fed and read.

    Attributes:
        pad_id: The token id that fills what a file of a fixed length has beyond a text.
        side: Where padding goes, :data:`LEFT` or :data:`RIGHT`.
        first_position: The position of a text's first token, for a file that takes positions; from 1 on, padding has the one
            before it, as in RoBERTa.
        inputs: Name → value of inputs that the project gives, a number or nested lists of numbers.
        output: Name of the output that the project chose; empty for the rule of :func:`qguard.encoders.outputs.choose`.
    """

    pad_id: int = 0
    side: str = RIGHT
    first_position: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    output: str = ""

    @classmethod
    def read(cls, root: Path, inputs: Mapping[str, Any] | None = None, output: str = "") -> Feeding:
        """What a transformer folder declares; padding's side only as far as ``tokenizer_config.json`` says it.

        Args:
            root: The folder.
            inputs: See :class:`Feeding`.
            output: See :class:`Feeding`.
        """
        config = read_optional(root / "config.json")
        pad = config.get("pad_token_id")
        return cls(
            pad if isinstance(pad, int) else 0,
            declared_side(read_optional(root / "tokenizer_config.json")) or RIGHT,
            first_position(config),
            dict(inputs or {}),
            output,
        )

    @classmethod
    def of(cls, model: Model) -> Feeding:
        """That of a model's own ONNX file, with what the project says of it."""
        return cls.read(model.root, model.inputs, model.output)

    def padded_by(self, tokenizer: TextTokenizer) -> Feeding:
        """The same with the padding token and side of a tokenizer that is open."""
        return replace(self, pad_id=tokenizer.pad_id, side=tokenizer.side)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)


def declared_side(tokenizer_config: Mapping[str, Any]) -> str | None:
    """The padding side that ``tokenizer_config.json`` declares, or ``None``."""
    found = tokenizer_config.get("padding_side")
    return found if found in (LEFT, RIGHT) else None
