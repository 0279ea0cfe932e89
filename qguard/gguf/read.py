"""Reading GGUF files: their metadata, and tensors that are mapped and not loaded.

Each number that says how long something is is held against the bytes that are left. Readers that follow such numbers hang, or
fill the memory, on a file of a hundred bytes.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qguard.console.visible import visible
from qguard.errors import ArtifactProblem
from qguard.gguf.types import Kind, dequantized, kinds, steps

SUFFIX = ".gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
LARGEST = 2**24  # entries of one list, and tensors; the largest vocabularies have 2**18
ALIGNMENT = 32
_TEXT, _LIST = 8, 9
# numbers in metadata by the number of their type, as struct has them; 7 is a truth value
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_AGAIN = "convert or copy it again"


@dataclass(frozen=True)
class Tensor:
    """One stored tensor.

    Attributes:
        name: Its name, such as ``blk.0.attn_q.weight``.
        kind: Its type.
        shape: As NumPy has it: of a matrix its outputs (rows), then its inputs.
        stored: Its bytes, uint8 (rows, bytes of a row), mapped.
        file: The map that they lie in.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    stored: Any
    file: mmap.mmap

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Rows, of all matrices where there are several."""
        return len(self.stored)

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return int(self.stored.size)

    def values(self, start: int = 0, stop: int | None = None) -> Any:
        """Values of some rows, float32 (n, width).

        Raises:
            ArtifactProblem: for a type whose values are not read.
        """
        return dequantized(self.kind.name, self._copied(start, stop))

    def steps(self, start: int, stop: int) -> Any:
        """See :func:`qguard.gguf.types.steps`."""
        return steps(self.kind.name, self._copied(start, stop))

    def _copied(self, start: int, stop: int | None) -> Any:
        found = np.array(self.stored[start:stop])
        if found.nbytes > 2**16 and hasattr(mmap, "MADV_DONTNEED"):  # the pages do not count as memory of the process
            self.file.madvise(mmap.MADV_DONTNEED)
        return found


@dataclass(frozen=True)
class GgufFile:
    """A file that is whole, as far as its own numbers say.

    Attributes:
        path: The file.
        metadata: Key → value: a number, truth value or text, or a list of them (numbers as an array).
        tensors: Name → tensor, in the file's order.
        order: Key → number of the value's type in the file, and of its entries' for a list.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    order: dict[str, tuple[int, int]]

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``bert``."""
        return self.text("general.architecture")

    def of(self, key: str) -> Any:
        """A value of the architecture's own, such as ``pooling_type``; ``None`` where the file has none."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """A whole number of the architecture's own; 0 where the file has none, or something else."""
        found = self.of(key)
        return found if type(found) is int else 0

    def text(self, key: str) -> str:
        """A text; empty where the file has none, or something else."""
        found = self.metadata.get(key)
        return found if isinstance(found, str) else ""

    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary as the file has it."""
        found = self.metadata.get("tokenizer.ggml.tokens")
        return found if isinstance(found, list) else []

    def counted(self) -> dict[str, tuple[int, int]]:
        """Type → tensors of at least two dimensions that have it, and their bytes; the most bytes first."""
        matrices = [t for t in self.tensors.values() if len(t.shape) > 1]
        number, size = Counter[str](), Counter[str]()
        for t in matrices:
            number[t.kind.name] += 1
            size[t.kind.name] += t.bytes
        return {name: (number[name], many) for name, many in size.most_common()}


def read_gguf(path: Path) -> GgufFile:
    """Read a file's metadata, and map its tensors.

    Raises:
        ArtifactProblem: for a file that is missing, truncated or damaged, of another version or byte order, or one part of
            several; each with what was expected.
        UsageProblem: where the package ``gguf`` is not installed.
    """
    try:
        with path.open("rb") as f:
            if path.stat().st_size < 24 or f.read(4) != MAGIC:
                raise ArtifactProblem(f"{path.name} ({path.stat().st_size} bytes) is not a whole GGUF file; {_AGAIN}")
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise ArtifactProblem(f"cannot read {path.name}: {e.strerror or e}") from e
    return _Reader(path, mapped).file()


class _Reader:
    """A place in a mapped file."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self._path, self._map, self._at, self._size = path, mapped, len(MAGIC), len(mapped)

    def file(self) -> GgufFile:
        version = int(self._one("I"))
        if version not in VERSIONS:
            turned = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            found = "the byte order of other processors" if turned else f"version {version}"
            raise self._problem(f"expected version 2 or 3 of the format, found {found}")
        tensors, keys = int(self._one("Q")), int(self._one("Q"))
        self._fits(tensors, 24, "tensors")
        self._fits(keys, 13, "keys")
        metadata, order = dict[str, Any](), dict[str, tuple[int, int]]()
        for _ in range(keys):
            key = self._text()
            if key in metadata:
                raise self._problem(f"the key {visible(key[:80])!r} stands in it twice")
            kind = int(self._one("I"))
            metadata[key], order[key] = self._value(kind, key)
        if (parts := metadata.get("split.count", 0)) not in (0, 1):
            raise ArtifactProblem(
                f"{self._path.name} is one of {parts} parts; give one file: llama-gguf-split --merge FIRST_PART {self._path.name}"
            )
        return GgufFile(self._path, metadata, dict(self._tensors(tensors, metadata)), order)

    def _tensors(self, count: int, metadata: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
        told = [self._told() for _ in range(count)]
        if len({name for name, *_ in told}) < count:
            twice = Counter(name for name, *_ in told).most_common(1)[0][0]
            raise self._problem(f"the tensor {visible(twice[:80])!r} stands in it twice")
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise self._problem(f"general.alignment: expected a power of 2, found {alignment!r}")
        start = _padded(self._at, alignment)
        end = start
        for name, kind, shape, offset in told:
            size = prod(shape) // kind.block * kind.size
            if start + offset != end:  # as llama.cpp wants it: one behind the other
                raise self._problem(f"tensor {name!r} lies at {start + offset}, and the one before it ends at {end}")
            if end + size > self._size:
                raise ArtifactProblem(
                    f"{self._path.name} is truncated: {self._size} bytes, and tensor {name!r} ends at {end + size}; {_AGAIN}"
                )
            bytes_ = np.frombuffer(self._map, np.uint8, size, end)
            yield name, Tensor(name, kind, shape, bytes_.reshape(prod(shape[:-1]), -1), self._map)
            end = _padded(end + size, alignment)

    def _told(self) -> tuple[str, Kind, tuple[int, ...], int]:
        """Name, type, shape and offset of a tensor."""
        name = self._text()
        shown, dimensions = visible(name[:80]), int(self._one("I"))
        if not 1 <= dimensions <= 4:
            raise self._problem(f"tensor {shown!r}: expected 1 to 4 dimensions, found {dimensions}")
        shape = tuple(int(self._one("Q")) for _ in range(dimensions))[::-1]
        number, offset = int(self._one("I")), int(self._one("Q"))
        kind = kinds().get(number)
        if kind is None:
            raise self._problem(f"tensor {shown!r} is of type {number}, which gguf does not know; install a newer gguf")
        if min(shape) < 1 or prod(shape) * kind.size // kind.block > self._size:
            raise ArtifactProblem(
                f"{self._path.name} is truncated or damaged: {self._size} bytes, and tensor {shown!r} is {shape}; {_AGAIN}"
            )
        if shape[-1] % kind.block:
            raise self._problem(f"tensor {shown!r}: rows of {shape[-1]} are no multiple of {kind.block}, which {kind.name} needs")
        return name, kind, shape, offset

    def _value(self, kind: int, key: str) -> tuple[Any, tuple[int, int]]:
        if kind != _LIST:
            return self._single(kind, key), (kind, 0)
        inner, count = int(self._one("I")), int(self._one("Q"))
        if inner == _TEXT:
            self._fits(count, 8, key)
            return [self._text() for _ in range(count)], (kind, inner)
        if inner not in _SCALARS:
            raise self._problem(f"{visible(key[:80])} is a list of type {inner}, which is not read")
        code = _SCALARS[inner].replace("?", "B")
        self._fits(count, struct.calcsize(code), key)
        values = np.frombuffer(self._take(count * struct.calcsize(code)), f"<{np.dtype(code).str[1:]}")
        return values, (kind, inner)

    def _single(self, kind: int, key: str) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind not in _SCALARS:
            raise self._problem(f"{visible(key[:80])} is of type {kind}, which GGUF does not have")
        return self._one(_SCALARS[kind])

    def _one(self, code: str) -> Any:
        (found,) = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))
        return found

    def _text(self) -> str:
        size = int(self._one("Q"))
        if size > self._size - self._at:
            raise self._truncated()
        return self._take(size).decode("utf-8", "surrogateescape")

    def _take(self, size: int) -> bytes:
        if size > self._size - self._at:
            raise self._truncated()
        found = self._map[self._at : self._at + size]
        self._at += size
        return found

    def _fits(self, count: int, least: int, what: str) -> None:
        """So many entries of at least so many bytes are there."""
        if count > LARGEST or count * least > self._size - self._at:
            raise ArtifactProblem(
                f"{self._path.name} is truncated or damaged: it says {count} {visible(what[:80])}, and {self._size - self._at} "
                f"bytes follow; {_AGAIN}"
            )

    def _truncated(self) -> ArtifactProblem:
        return ArtifactProblem(f"{self._path.name} is truncated: {self._size} bytes, and its head does not end there; {_AGAIN}")

    def _problem(self, what: str) -> ArtifactProblem:
        return ArtifactProblem(f"{self._path.name} is no GGUF file that llama.cpp reads: {what}; {_AGAIN}")


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
