"""Artifacts: the files that get deployed, what is known of them, and the cache where they are built once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qguard.artifacts.candidates import GIVEN, choose, place
from qguard.cache import built_once
from qguard.console.progress import progress
from qguard.encoders.feeding import Feeding
from qguard.encoders.runtimes import GGUF, NO_FILES, ONNX, RUNTIMES, SAFETENSORS
from qguard.errors import ArtifactProblem, ModelProblem
from qguard.files import cache_folder, dump_json, inside, read_json, sha256_file, sha256_json, tree_hashes
from qguard.gguf.read import SUFFIX, read_gguf
from qguard.javascript.settings import JavaScript
from qguard.kinds import CROSS_ENCODER, KINDS, SPARSE
from qguard.models.layout import module_list
from qguard.models.model import Model
from qguard.models.pipeline import (
    ST_CONFIG,
    STATIC,
    Pipeline,
    overstated,
    read_optional,
    transformer_path,
    transformer_settings,
)
from qguard.onnx.read import external_files, read_graph

PROVENANCE = "qguard.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Artifact:
    """A quantized (or fp32) model as files, or one that has none here because its runtime keeps it.

    Attributes:
        folder: Where tokenizer and heads are read from; for a bare ``.onnx`` or ``.gguf`` file, and without files, the base
            model's folder.
        file: The ONNX or GGUF file, or ``None`` for a torch artifact.
        pipeline: The pipeline that these files declare.
        provenance: How it was made; empty for an artifact of another tool.
        has_files: That there are files to be judged; what needs them is an error without.
        tokens: Folder of a ``tokenizer.json`` of its own, where that is not ``folder``'s: beside an ONNX file without modules.
        feeding: What its ONNX file does not say of its inputs and outputs.
        javascript: Where JavaScript is found, for a runtime that needs it.
        rule: Why these files are judged, in words; empty for what is built here.
        others: Files beside them that could have been judged.
    """

    folder: Path
    file: Path | None
    pipeline: Pipeline
    provenance: dict[str, Any]
    has_files: bool = True
    tokens: Path | None = None
    feeding: Feeding = field(default_factory=Feeding)
    javascript: JavaScript = field(default_factory=JavaScript)
    rule: str = ""
    others: tuple[str, ...] = ()

    @classmethod
    def without_files(cls, base: Model) -> Artifact:
        """What a runtime keeps that has no files: only the base model's tokenizer and pipeline are known of it."""
        return cls(base.folder, None, base.pipeline, {}, has_files=False)

    @property
    def kind(self) -> str:
        """What its files are; see :attr:`qguard.encoders.runtimes.RuntimeRecord.files`."""
        if not self.has_files or self.file is None:
            return SAFETENSORS if self.has_files else NO_FILES
        return GGUF if self.file.suffix == SUFFIX else ONNX

    @property
    def onnx(self) -> Path | None:
        """The ONNX file; ``None`` for files of another kind, and without."""
        return self.file if self.kind == ONNX else None

    def need_files(self) -> None:
        """There are files.

        Raises:
            ArtifactProblem: where there are none.
        """
        if not self.has_files:
            raise ArtifactProblem("its runtime keeps the model: there are no files that could be read, hashed, copied or timed")

    @property
    def tokenizer_root(self) -> Path:
        """The folder of its tokenizer's files."""
        return self.tokens or inside(self.folder, self.pipeline.transformer)

    @property
    def runs(self) -> Path:
        """What a runtime opens: the ONNX or GGUF file, or the folder of the torch transformer."""
        self.need_files()
        return self.file or inside(self.folder, self.pipeline.transformer)

    def runtime(self, wanted: str) -> str:
        """The runtime that reads these files: ``wanted`` if it does, else the first one registered that does.

        That is torch for safetensors, ONNX Runtime for an ONNX file and llama.cpp for a GGUF file.
        """
        if RUNTIMES.find(wanted).files == self.kind:
            return wanted
        return next(r.name for r in RUNTIMES.values() if r.files == self.kind)

    @property
    def calibration(self) -> dict[str, Any]:
        """What its provenance says of the texts that calibrated it; empty where it says nothing."""
        key = self.provenance.get("key")
        found = key.get("calibration") if isinstance(key, dict) else None
        return found if isinstance(found, dict) else {}

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files that hold the transformer's weights."""
        self.need_files()
        if self.file is None:
            root = inside(self.folder, self.pipeline.transformer)
            return sorted(root.glob("*.safetensors"))
        return data_files(self.file)

    @property
    def bytes(self) -> int:
        """Size of the weights on disk.

        Raises:
            ArtifactProblem: without files, as all that reads them.
        """
        return sum(p.stat().st_size for p in self.weight_files)

    @property
    def sha256(self) -> str:
        """One hash for what decides the vectors: weights, those of the modules behind the first one too, tokenizer, pipeline, and
        OpenVINO's properties where declared.
        """
        heads = [inside(self.folder, m.path) / "model.safetensors" for m in self.pipeline.weighted]
        parts = [sha256_file(p) for p in (*self.weight_files, *heads)]
        beside = self.file.with_name("openvino.json") if self.file else None
        if beside and beside.exists():  # how OpenVINO is told to compute decides its vectors
            parts.append(sha256_file(beside))
        return sha256_json([*parts, sha256_file(self.tokenizer_root / "tokenizer.json"), self.pipeline.sha256()])


def data_files(file: Path) -> list[Path]:
    """An ONNX or GGUF file, and those beside it that hold its weights."""
    beside = external_files(file) if file.suffix == ".onnx" else ()
    return [file, *(file.parent / name for name in beside)]


def open_artifact(path: Path, base: Model, runtime: str = "onnx") -> Artifact:
    """Read a folder, or a bare ``.onnx`` or ``.gguf`` file.

    Args:
        path: A folder in sentence-transformers layout, with ``#`` and the name of a file in it where it holds several; or one
            ONNX or GGUF file.
        base: The fp32 model; its tokenizer and heads serve where the artifact has none of its own.
        runtime: What the precision runs in; it decides between ONNX files, safetensors and GGUF files.

    Raises:
        ArtifactProblem: when nothing usable is there, or several files are; or a file differs from the artifact's own provenance.
    """
    path, named = place(path)
    if not path.exists():
        raise ArtifactProblem(f"no artifact at {path}; expected a folder, or an .onnx or .gguf file")
    if path.is_file():
        return _alone(path, base)
    try:
        pipeline = base.pipeline_of(path) if (path / "modules.json").exists() else base.pipeline
    except ModelProblem as e:
        raise ArtifactProblem(f"artifact {path.name}: {e}") from e
    provenance = _provenance(path)
    choice = choose(path, pipeline.transformer, runtime, named)
    rule = "" if provenance and not choice.others else choice.rule
    if choice.file is None:
        return Artifact(path, None, pipeline, provenance, rule=rule, others=choice.others)
    _read(choice.file)
    whole = (path / pipeline.transformer / "tokenizer.json").exists() and (path / "modules.json").exists()
    folder, tokens = path if whole else base.folder, None if whole else tokens_beside(choice.file)
    feeding = _feeding(folder, pipeline, provenance, base)
    return Artifact(folder, choice.file, pipeline, provenance, True, tokens, feeding, rule=rule, others=choice.others)


def _alone(path: Path, base: Model) -> Artifact:
    if path.suffix not in (".onnx", SUFFIX):
        raise ArtifactProblem(f"{path.name}: expected an .onnx or .gguf file, or a folder, found {path.suffix or 'no suffix'}")
    _read(path)
    # a file inside a whole model folder is judged with that folder's own tokenizer and heads
    for home in path.parents[:3]:
        if (home / "modules.json").exists() and (home / transformer_path(home) / "tokenizer.json").exists():
            pipeline, provenance = base.pipeline_of(home), _provenance(home)
            feeding = _feeding(home, pipeline, provenance, base)
            return Artifact(home, path, pipeline, provenance, feeding=feeding, rule=GIVEN)
    return Artifact(base.folder, path, base.pipeline, {}, tokens=tokens_beside(path), feeding=Feeding.of(base), rule=GIVEN)


def _read(file: Path) -> None:
    """A file is whole, as far as it says itself."""
    if file.suffix == SUFFIX:
        read_gguf(file)
    else:
        read_graph(file)


def tokens_beside(file: Path) -> Path | None:
    """The folder of the ``tokenizer.json`` beside an ONNX or GGUF file, or beside the folder ``onnx`` that it lies in."""
    places = [file.parent, *([file.parent.parent] if file.parent.name == "onnx" else [])]
    return next((place for place in places if (place / TOKENIZER_FILES[0]).exists()), None)


def _feeding(folder: Path, pipeline: Pipeline, provenance: dict[str, Any], base: Model) -> Feeding:
    """By the artifact's own configuration, the model's where it has none.

    What the project says of inputs and outputs is not of files that are exported here, whose inputs and outputs are known.
    """
    root = inside(folder, pipeline.transformer)
    root = root if (root / "config.json").exists() else base.root
    exported = bool(provenance) and base.onnx is None
    return Feeding.read(root) if exported else Feeding.read(root, base.inputs, base.output)


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    if not path.exists():
        return {}
    provenance = read_json(path, ArtifactProblem)
    files = provenance.get("files", {})
    if not isinstance(files, dict):
        raise ArtifactProblem(f"artifact {folder.name}: {PROVENANCE} does not list its files; copy or build it again")
    for name, want in files.items():
        file = inside(folder, name)
        if not file.is_file():
            raise ArtifactProblem(f"artifact {folder.name}: {name} is missing; build it again")
        if sha256_file(file) != want:
            raise ArtifactProblem(
                f"artifact {folder.name}: {name} is not the file that was built (its SHA-256 differs from {PROVENANCE}); "
                f"copy or build it again"
            )
    return provenance


def build_cached(key: dict[str, Any], base: Model, build: Callable[[Path], None]) -> Artifact:
    """The artifact for ``key``, built at most once however many processes ask.

    Args:
        key: Everything that decides the bytes: weights, tokenizer, pipeline, recipe, versions.
        base: The fp32 model.
        build: Fills an empty folder; it is renamed into place only when whole.

    Raises:
        ArtifactProblem: when the cache cannot be written.
    """
    digest = sha256_json(key)
    folder = cache_folder() / f"{key['model']}-{key['precision']}-{digest[:16]}"

    def fill(work: Path) -> None:
        copy_layout(base, work)
        _declare(base, work)
        with progress(f"making {key['precision']} of {key['model']}", None):
            build(work)
        record = {"schema": 1, "key": key, "files": tree_hashes(work)}
        (work / PROVENANCE).write_bytes(dump_json(record))

    try:
        return built_once(folder, lambda: _kept(folder, base, digest), fill)
    except OSError as e:
        raise ArtifactProblem(
            f"cannot read or write the artifact cache ({e.strerror or e}); free space or set QGUARD_CACHE to a writable folder"
        ) from e


def _kept(folder: Path, base: Model, digest: str) -> Artifact | None:
    """The artifact in a folder of the cache, if its record proves what it was made from, and every file in it."""
    if not folder.exists():
        return None
    try:
        kept = open_artifact(folder, base)
    except ArtifactProblem:  # a damaged cache entry is ours to mend
        return None
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    proved = names == {*kept.provenance.get("files", {}), PROVENANCE}  # without the record it may be anything
    return kept if proved and len(names) > 1 and sha256_json(kept.provenance.get("key")) == digest else None


def _declare(base: Model, folder: Path) -> None:
    """Write the project's own settings into the artifact, and a length that its model leaves to guesses: it must behave the same
    wherever it is deployed.
    """
    names = {"max_seq_length": Path(base.pipeline.transformer) / "sentence_bert_config.json"}
    names["prompts"] = Path(ST_CONFIG)
    usable = {"max_seq_length": base.pipeline.max_seq_length} if not base.static and overstated(base.root) else {}
    for key, value in (usable | dict(base.settings)).items():
        file = folder / names[key]
        old = read_optional(file) or (transformer_settings(file.parent) if key == "max_seq_length" else {})
        file.write_bytes(dump_json({**old, key: value}))


def copy_layout(base: Model, folder: Path) -> None:
    """Copy everything but the transformer's weights: modules, pooling, heads, tokenizer, configuration."""
    heads = {m.path for m in base.pipeline.weighted}
    for source in base.folder.rglob("*"):
        relative = source.relative_to(base.folder)
        keep = source.suffix in (".json", ".txt", ".model") or relative.parent.as_posix() in heads
        if source.is_file() and keep and "onnx" not in relative.parts and source.name != PROVENANCE:
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if not (folder / "modules.json").exists():
        for name, value in _layout(base, folder).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(value))


def _layout(base: Model, folder: Path) -> dict[str, Any]:
    """The files that declare what sentence-transformers makes of a model without modules, in its own words."""
    if base.static:
        return {"modules.json": module_list(_RELEASE_2, STATIC, *(["Normalize"] if base.pipeline.normalize else []))}
    if base.kind == SPARSE:
        return {
            "modules.json": [
                *module_list(_TRANSFORMER, "Transformer"),
                *module_list("sentence_transformers.sparse_encoder.modules.splade_pooling", "SpladePooling", start=1),
            ],
            "1_SpladePooling/config.json": {"pooling_strategy": "max", "activation_function": "relu"},
            **_of_logits(folder, "fill-mask", "token_embeddings"),
            ST_CONFIG: {**read_optional(folder / ST_CONFIG), "model_type": KINDS[SPARSE].model_type},
        }
    if base.pipeline.scoring is not None:
        activation = base.pipeline.scoring.activation
        place = "linear" if activation == "Identity" else "activation"
        return {
            "modules.json": module_list(_TRANSFORMER, "Transformer"),
            **_of_logits(folder, "sequence-classification", "scores"),
            ST_CONFIG: {
                "model_type": KINDS[CROSS_ENCODER].model_type,
                "activation_fn": f"torch.nn.modules.{place}.{activation}",
                "prompts": {},  # such a folder has none
            },
        }
    return {
        "modules.json": module_list(_RELEASE_2, "Transformer", "Pooling"),
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    }


_RELEASE_2, _TRANSFORMER = "sentence_transformers.models", "sentence_transformers.base.modules.transformer"


def _of_logits(folder: Path, task: str, name: str) -> dict[str, Any]:
    """The settings of a Transformer that gives the logits of its own head."""
    file = "sentence_bert_config.json"
    declared = {
        "transformer_task": task,
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": name,
    }
    return {file: {**read_optional(folder / file), **declared}}
