"""Fills the inputs of one ONNX file: each by its whole name, in its own element type and shape, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders.feeding import LEFT, Feeding
from qguard.encoders.ports import INPUT_IDS, MASK, OFFSETS, PAST, POSITIONS, TYPES, Port, plain, role_of
from qguard.errors import ArtifactProblem

_LISTED = 4


class Feeds:
    """The feeds of one file.

    Args:
        inputs: What the file takes.
        file: For messages.
        feeding: What else is known of it.

    Attributes:
        batch: Texts of one run, where the file fixes them, else ``None``.
        length: Tokens of one run, where the file fixes them, else ``None``; shorter batches are padded up to it.

    Raises:
        ArtifactProblem: for an input that nothing says a value for, two inputs of one role, no input of token ids, or an element
            type or shape that token ids and masks do not fit.
    """

    def __init__(self, inputs: Sequence[Port], file: Path, feeding: Feeding | None = None) -> None:
        self._file, self._feeding = file, feeding or Feeding()
        self._ports = list(inputs)
        self._roles = {p.name: role_of(p.name) for p in inputs if p.name not in self._feeding.inputs}
        idle = [name for name in self._feeding.inputs if name not in {p.name for p in inputs}]
        if idle:
            raise ArtifactProblem(
                f"inputs = {{ {idle[0]} = … }}: {file.name} has no such input; found {', '.join(map(str, inputs))}"
            )
        self._refuse_unknown()
        rows = [p for p in inputs if self._roles.get(p.name, PAST) != PAST]
        for port in inputs:
            _dtype(port, file)
        self._flat = OFFSETS in self._roles.values()
        if self._flat:  # of an embedding table: nothing is padded, and nothing masked
            rows = [p for p in rows if self._roles[p.name] not in (INPUT_IDS, OFFSETS)]
        for port in rows:
            if port.shape is not None and len(port.shape) != 2:
                raise ArtifactProblem(f"{file.name}: {port} is fed (batch, tokens), and has {len(port.shape)} dimensions")
        self.batch, self.length = (self._fixed(rows, axis) for axis in (0, 1))

    def _refuse_unknown(self) -> None:
        found = list(self._roles.values())
        unknown = [p for p in self._ports if p.name in self._roles and self._roles[p.name] is None]
        decoder = next((p for p in unknown if plain(p.name).startswith("decoder_")), None)
        if decoder is not None:
            raise ArtifactProblem(
                f"{self._file.name} takes {decoder}, so it is an encoder with its decoder, and its outputs may be the decoder's. "
                "An embedding is made of the encoder's: export the encoder alone (of T5, Transformers' T5EncoderModel)"
            )
        if unknown:
            listed = ", ".join(map(str, unknown[:_LISTED])) + (f" and {len(unknown) - _LISTED} more" * (len(unknown) > _LISTED))
            raise ArtifactProblem(
                f"{self._file.name} also takes {listed}, and nothing says what is fed there. Give each a value in the model's "
                f"table of [tool.qguard.models]: inputs = {{ {', '.join(f'{_key(p.name)} = 0' for p in unknown[:_LISTED])} }}"
            )
        if INPUT_IDS not in found:
            raise ArtifactProblem(
                f"{self._file.name} has no input of token ids; found {', '.join(map(str, self._ports)) or 'none'}"
            )
        for role in {*found} - {PAST}:
            same = [name for name, r in self._roles.items() if r == role]
            if len(same) > 1:
                raise ArtifactProblem(f"{self._file.name} has several inputs for {role}: {', '.join(same)}; expected one")

    def _fixed(self, ports: Sequence[Port], axis: int) -> int | None:
        sizes = {p.shape[axis] for p in ports if p.shape is not None} - {None}
        if len(sizes) > 1:
            raise ArtifactProblem(f"{self._file.name} fixes different shapes for its inputs: {', '.join(map(str, ports))}")
        return sizes.pop() if sizes else None

    def described(self) -> dict[str, str]:
        """What each input is fed, in words, by its name."""
        return {p.name: self._words(p) for p in self._ports}

    def _words(self, port: Port) -> str:
        first = self._feeding.first_position
        said = {
            INPUT_IDS: "token ids" + (" of all texts, one behind the other" if self._flat else ""),
            MASK: "1 at tokens, 0 at padding",
            TYPES: "zeros",
            OFFSETS: "where each text begins",
            POSITIONS: f"positions from {first}" + (f", {first - 1} at padding" if first else ""),
            PAST: "nothing before the text",
        }
        words = said.get(self._roles.get(port.name) or "", "")
        return f"{words or self._feeding.inputs.get(port.name)} as {port.kind}"

    def __call__(self, input_ids: Any, attention_mask: Any, types: Any = None) -> dict[str, Any]:
        """The inputs of one run by name, for token ids, mask and, of pairs, token type ids, each (batch, length).

        Raises:
            ArtifactProblem: where the batch needs several runs, or does not fit the file.
        """
        runs = list(self.runs(input_ids, attention_mask, types))
        if len(runs) > 1:
            raise ArtifactProblem(f"{self._file.name} takes {self.batch} texts a run, and the batch has {len(input_ids)}")
        return runs[0]

    def runs(self, input_ids: Any, attention_mask: Any, types: Any = None) -> Iterator[dict[str, Any]]:
        """As :meth:`__call__`, of every run that a file of fixed shapes needs; the last one is filled up with its last text.

        Raises:
            ArtifactProblem: for texts longer than the file's fixed length.
        """
        count, length = input_ids.shape
        types = np.zeros_like(input_ids) if types is None else types
        if self.length is not None and length != self.length:
            input_ids, attention_mask, types = self._padded_up(input_ids, attention_mask, types)
        step = self.batch or count
        for start in range(0, count, step):
            rows = np.minimum(np.arange(start, start + step), count - 1) if step != count else slice(None)
            yield self._run(input_ids[rows], attention_mask[rows], types[rows])

    def _padded_up(self, ids: Any, mask: Any, types: Any) -> tuple[Any, Any, Any]:
        assert self.length is not None
        more = self.length - ids.shape[1]
        if more < 0:
            raise ArtifactProblem(
                f"{self._file.name} is made for {self.length} tokens exactly, and texts have up to {ids.shape[1]}: export it "
                f"with dynamic axes, or state max_seq_length = {self.length} in the model's table of [tool.qguard.models] and "
                "record the golden again"
            )
        width = ((0, 0), (more, 0) if self._feeding.side == LEFT else (0, more))
        return np.pad(ids, width, constant_values=self._feeding.pad_id), np.pad(mask, width), np.pad(types, width)

    def _run(self, ids: Any, mask: Any, types: Any) -> dict[str, Any]:
        values: dict[str, Callable[[], Any]] = {
            INPUT_IDS: lambda: ids[mask > 0] if self._flat else ids,
            OFFSETS: lambda: np.cumsum(mask.sum(1)) - mask.sum(1),
            MASK: lambda: mask,
            TYPES: lambda: types,
            POSITIONS: lambda: positions(mask, self._feeding.first_position),
        }
        feeds = {}
        for port in self._ports:
            role = self._roles.get(port.name)
            if port.name in self._feeding.inputs:
                value = self._given(port, ids.shape)
            elif role == PAST:
                value = np.zeros(_past_shape(port, len(ids)))
            else:
                value = values[role or INPUT_IDS]()
            feeds[port.name] = np.ascontiguousarray(value, _dtype(port, self._file)).reshape(np.shape(value))
        return feeds

    def _given(self, port: Port, batch: tuple[int, int]) -> Any:
        """A value of the project: a number fills the whole input, lists have its shape."""
        value = np.asarray(self._feeding.inputs[port.name])
        if port.shape is None or value.ndim:
            if port.shape is not None and value.ndim != len(port.shape):
                raise ArtifactProblem(f"{self._file.name}: inputs.{port.name} has {value.ndim} dimensions; expected {port}")
            return value
        wanted = [*batch, *[1] * len(port.shape)]
        return np.full([size or wanted[axis] for axis, size in enumerate(port.shape)], value)


def positions(mask: Any, first: int) -> Any:
    """Positions (batch, length) of tokens, counted from ``first`` at each text's first one, whatever side its padding is on.

    Padding has the position before ``first``, where there is one, as Transformers gives RoBERTa's; else one of the text.
    """
    found = first + np.maximum(np.cumsum(mask, 1) - 1, 0)
    return np.where(mask > 0, found, first - 1) if first else found


def _past_shape(port: Port, batch: int) -> list[int]:
    return [batch if axis == 0 and size is None else size or 0 for axis, size in enumerate(port.shape or ())]


def _dtype(port: Port, file: Path) -> Any:
    try:
        kind = np.dtype(port.kind)
    except TypeError:
        kind = np.dtype(object)
    if kind.kind not in "iufb":
        raise ArtifactProblem(
            f"{file.name}: input {port} takes neither numbers nor bools; expected a file that takes token ids, not texts"
        )
    return kind


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else f'"{name}"'
