"""Models: resolve a reference to a folder, and say by hash which model it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json, sha256_json
from qguard.kinds import CROSS_ENCODER
from qguard.models import layout
from qguard.models.admission import admit
from qguard.models.kind import read_kind, said_kind
from qguard.models.location import locate
from qguard.models.pipeline import Pipeline, read_pipeline, tokenizer_file
from qguard.models.table import read_table
from qguard.onnx.read import external_files, fp32_sha256, stored_shapes

# bytes of floats that do not have four, by the names of safetensors and of ONNX
_WIDTH = {"F64": 8, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "DOUBLE": 8, "FLOAT16": 2, "BFLOAT16": 2}


@dataclass(frozen=True)
class Model:
    """The fp32 target: a folder in sentence-transformers layout, with its weights in safetensors or in one ONNX file.

    Attributes:
        name: Its name in the configuration, and the name of its golden folder.
        ref: The reference as the user wrote it.
        revision: The hub revision that was asked for, or ``None``.
        folder: Where its files are.
        settings: ``max_seq_length`` and ``prompts`` where the project sets them itself; they win over the folder's.
        onnx: The fp32 ONNX file of a model that comes without safetensors.
        inputs: Values that the project gives for further inputs of its ONNX files, other tools' ones among them.
        output: The output that the project names as the embedding; empty for a rule.
        stated_kind: The kind that the project states where the folder's files say none.
    """

    name: str
    ref: str
    revision: str | None
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    onnx: Path | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    stated_kind: str | None = None

    @cached_property
    def pipeline(self) -> Pipeline:
        """Pooling, lengths, prompts and heads: as the folder declares them, then as the project sets them."""
        return self.configured(read_pipeline(self.folder, self.stated_kind))

    @property
    def kind(self) -> str:
        """What it gives for a text, a name in :data:`qguard.kinds.KINDS`."""
        return self.pipeline.kind

    def pipeline_of(self, artifact: Path) -> Pipeline:
        """The pipeline that an artifact's folder declares, with the project's own settings over it.

        Raises:
            ModelProblem: also where that is a model of another kind.
        """
        said = said_kind(artifact)
        if said is not None and said[0] != self.kind:
            raise ModelProblem(
                f"{said[1]} says that it is of kind {said[0]!r}, and model {self.name!r} is of kind {self.kind!r}; give an "
                "artifact of that model"
            )
        return self.configured(read_pipeline(artifact, self.kind))

    def configured(self, pipeline: Pipeline) -> Pipeline:
        """``pipeline``, the model's or an artifact's, with the project's own settings over it."""
        return replace(pipeline, **self.settings)

    @property
    def static(self) -> bool:
        """Whether it is one embedding table, without a transformer."""
        return self.pipeline.static

    @property
    def root(self) -> Path:
        """The folder of the transformer module: config, weights, tokenizer."""
        return inside(self.folder, self.pipeline.transformer)

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the transformer's weights."""
        if self.onnx is None:
            return weight_files(self.root)
        return [self.onnx, *(self.onnx.parent / name for name in external_files(self.onnx))]

    @cached_property
    def tensors(self) -> dict[str, dict[str, Any]]:
        """Name → ``dtype`` (safetensors' names), ``shape`` and ``data_offsets`` of each tensor of the transformer's safetensors.

        Raises:
            ModelProblem: see :func:`weight_files` and :func:`safetensors_header`.
        """
        return {name: info for file in weight_files(self.root) for name, info in safetensors_header(file)[0].items()}

    @cached_property
    def fp32_bytes(self) -> int:
        """Size of the transformer's weight files, were all their floats of four bytes: what a smaller one is held to.

        Checkpoints are often stored in fp16 or bf16, and some in fp8 or fp64.

        For a static model it is the table that sentence-transformers makes of it: one row a token.
        """
        if self.static and self.onnx is None:
            table = read_table(self.root)
            return 4 * int(table.tokens * table.rows.shape[1])
        size = sum(p.stat().st_size for p in self.weight_files)
        found = [(t["dtype"], t["shape"]) for t in self.tensors.values()] if self.onnx is None else stored_shapes(self.onnx)
        return size + sum((4 - _WIDTH[kind]) * int(prod(shape)) for kind, shape in found if kind in _WIDTH)

    @cached_property
    def weight_sha256(self) -> str:
        """SHA-256 over the tensors: equal for equal weights, wherever the files came from. With ONNX, over the nodes too."""
        heads = [inside(self.folder, m.path) / "model.safetensors" for m in self.pipeline.weighted]
        if self.onnx is None:
            return tensors_sha256([*self.weight_files, *heads])
        graph = fp32_sha256(self.onnx)
        return sha256_json([graph, tensors_sha256(heads)]) if heads else graph

    @cached_property
    def tokenizer_sha256(self) -> str:
        """SHA-256 over what decides token ids: ``tokenizer.json`` without its padding and truncation defaults.

        The tokenizer of a static model is used as it is, so its truncation counts.
        """
        return tokenizer_sha256(self.root, *(() if self.static else ("truncation",)))


def tokenizer_sha256(root: Path, *leaving_out: str) -> str:
    """Hash of a tokenizer folder without its padding and other settings; see :attr:`Model.tokenizer_sha256`."""
    path = tokenizer_file(root)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ModelProblem(f"{path} is not valid JSON ({e})") from e
    for key in ("padding", *leaving_out):
        value.pop(key, None)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def weight_files(root: Path) -> list[Path]:
    """The safetensors files of a transformer folder (one, or the shards of its index).

    Raises:
        ModelProblem: if there are none; pickled weights (``pytorch_model.bin``) are never read.
    """
    single, index = root / "model.safetensors", root / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        shards = read_json(index, ModelProblem).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()) or not shards:
            raise ModelProblem(f"{index} has no weight_map from tensors to files; fetch or copy it again")
        if others := sorted({name for name in shards.values() if not name.endswith(".safetensors")}):
            raise ModelProblem(f"{index} names {others[0]!r}; expected safetensors files: pickled weights are never read")
        # shards lie beside their index; in a hub cache these names are links to files elsewhere in it
        return [root / name if Path(name).name == name else inside(root, name) for name in sorted(set(shards.values()))]
    if (root / "pytorch_model.bin").exists():
        raise ModelProblem(
            f"{root} has only pytorch_model.bin; pickled weights are never read. Convert it once with "
            f"SentenceTransformer(folder).save(folder, safe_serialization=True)"
        )
    raise ModelProblem(
        f"{root} has no model.safetensors; pickled weights such as pytorch_model.bin are neither fetched nor read. Save the "
        "model as safetensors"
    )


def tensors_sha256(files: list[Path]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of their names.

    ``position_ids`` buffers are left out: libraries write or drop them at will, and they hold 0, 1, 2, ….

    Raises:
        ModelProblem: for a file that is empty, truncated or not safetensors.
    """
    entries: dict[str, tuple[Path, dict[str, Any], int]] = {}
    for i, path in enumerate(files):
        header, start = safetensors_header(path)
        for name, info in header.items():
            if not name.endswith("position_ids"):
                entries[name if i == 0 else f"{path.parent.name}/{name}" if name in entries else name] = (path, info, start)
    total = hashlib.sha256()
    for name in sorted(entries):
        path, info, start = entries[name]
        begin, end = info["data_offsets"]
        with path.open("rb") as f:
            f.seek(start + begin)
            total.update(f"{name}|{info['dtype']}|{info['shape']}|".encode())
            left = end - begin
            while left:
                block = f.read(min(left, 1 << 22))
                total.update(block)
                left -= len(block)
    return total.hexdigest()


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensor table of a safetensors file and the offset at which its data begins.

    Raises:
        ModelProblem: when the file is missing, empty, truncated, longer than it says, or has no valid header.
    """
    again = "fetch or copy the file again"
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            head = f.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or not 2 <= length <= min(size - 8, 100_000_000):
                raise ModelProblem(f"{path} is not a whole safetensors file ({size} bytes); {again}")
            header: dict[str, Any] = json.loads(f.read(length))
    except OSError as e:
        raise ModelProblem(f"cannot read {path}: {e.strerror or e}") from e
    except ValueError as e:
        raise ModelProblem(f"{path} has a damaged safetensors header ({e}); {again}") from e
    header.pop("__metadata__", None)
    try:
        end = max((int(info["data_offsets"][1]) for info in header.values()), default=0)
        whole = all(0 <= info["data_offsets"][0] <= info["data_offsets"][1] for info in header.values())
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as e:
        raise ModelProblem(f"{path} has a damaged safetensors header ({e!r}); {again}") from e
    if not header or not whole or 8 + length + end != size:
        raise ModelProblem(f"{path} is truncated or damaged: {size} bytes, its header asks for {8 + length + end}; {again}")
    return header, 8 + length


def resolve(
    name: str,
    ref: str,
    revision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    was_folder: bool = False,
) -> Model:
    """Find the files behind a model reference.

    Args:
        name: The configuration's name for the model.
        ref: See :func:`qguard.models.location.locate`.
        revision: Branch, tag or commit; hub ids only.
        settings: See :class:`Model`, ``inputs`` and ``output`` too; for a model that comes as ONNX alone, also those of
            :func:`qguard.models.layout.complete`.
        was_folder: See :func:`qguard.models.location.locate`.

    Raises:
        ModelProblem: if nothing is there, the hub cannot be reached and the model is not in its cache, the folder of an
            ONNX file leaves something open that ``settings`` do not state, or it is no model that qguard judges; see
            :func:`qguard.models.admission.admit`.
    """
    place, settings = locate(name, ref, revision, was_folder=was_folder), dict(settings or {})
    inputs, output, kind = settings.pop("inputs", {}), settings.pop("output", ""), settings.pop("kind", None)
    onnx = layout.fp32_onnx(place)
    stated = [k for k in layout.STATED if k in settings]
    if onnx is not None and read_kind(place if place.is_dir() else place.parent, kind) == CROSS_ENCODER:
        raise ModelProblem(
            f"model {name!r} is a cross-encoder that comes as ONNX alone ({onnx.name}); qguard does not judge that yet. Give a "
            "folder with safetensors; the ONNX file can be judged as its artifact: pytest --precision int8 --artifact=FILE"
        )
    if onnx is None and stated:
        raise ModelProblem(
            f"model {name!r}: {', '.join(stated)} can be set only for a model that comes as ONNX alone; this one's files say it"
        )
    folder = layout.complete(name, ref, onnx, settings, kind) if onnx else place
    own = {k: v for k, v in settings.items() if k not in stated}
    model = Model(name, ref, revision, folder, own, onnx, inputs, output, kind)
    admit(model)
    return model
