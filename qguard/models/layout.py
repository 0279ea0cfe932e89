"""Models that come as one fp32 ONNX file: what their folder does not declare, the project states.

sentence-transformers' layout has a place for each of these settings. Where a folder leaves some out, a complete one, without
the weights, is kept in the cache, so that nothing behind it has to tell the two kinds of model apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.cache import built_once
from qguard.errors import ModelProblem
from qguard.files import cache_folder, dump_json, inside, sha256_json, tree_hashes
from qguard.kinds import SPARSE
from qguard.models.location import locate
from qguard.models.pipeline import declared_length, transformer_path

# Settings of a model's table that only such a model takes; max_seq_length and prompts suit every model.
STATED = ("tokenizer", "pooling", "normalize")


def fp32_onnx(place: Path) -> Path | None:
    """The ONNX file that is the model itself, or ``None`` where safetensors are.

    Args:
        place: The file, or a folder that holds it: ``model.onnx``, or the only ``.onnx`` file, there or in ``onnx/``.

    Raises:
        ModelProblem: for a folder without safetensors and with several ONNX files, none of them ``model.onnx``.
    """
    if place.is_file():
        return place
    files = [*sorted(place.glob("*.onnx")), *sorted(place.glob("onnx/*.onnx"))]
    if not files or any((place / transformer_path(place)).glob("*.safetensors")):
        return None
    named = [f for f in files if f.name == "model.onnx"] or files
    if len(named) > 1:
        found = ", ".join(f.relative_to(place).as_posix() for f in named)
        raise ModelProblem(f"{place.name} holds several ONNX files ({found}); give the path of the fp32 one as the model")
    return named[0]


def complete(name: str, ref: str, onnx: Path, settings: Mapping[str, Any], kind: str | None = None) -> Path:
    """A folder that declares the whole pipeline of an ONNX file: its own, or one in the cache with what the project states.

    Args:
        name: The configuration's name for the model.
        ref: Its reference, for messages.
        onnx: The model.
        settings: The model's table: ``tokenizer`` (a reference to a folder with ``tokenizer.json``), ``pooling`` (a mode of
            :data:`qguard.models.pipeline.POOLING_MODES`), ``normalize`` (false where not given) and ``max_seq_length``.
        kind: What the project states that it is, of :data:`qguard.kinds.KINDS`.

    Raises:
        ModelProblem: naming what is neither declared nor stated, or stated against what the folder declares.
    """
    home = onnx.parent.parent if onnx.parent.name == "onnx" else onnx.parent
    path = transformer_path(home)
    declared = {
        "tokenizer": (inside(home, path) / "tokenizer.json").exists(),
        "pooling": (home / "modules.json").exists(),
        "max_seq_length": declared_length(inside(home, path)) is not None,
    }
    twice = [k for k in STATED if k in settings and declared["pooling" if k == "normalize" else k]]
    if twice:
        raise ModelProblem(f"model {name!r}: its folder declares its own {', '.join(twice)}; remove it from [tool.qguard.models]")
    if kind == SPARSE and not declared["pooling"]:
        raise ModelProblem(
            f"model {name!r}: weights of words are judged of an ONNX file whose folder declares a SpladePooling (modules.json). "
            "One weight a token, such as BGE-M3's sparse_vecs, is not judged. Save the model with SparseEncoder, or judge the "
            'dense vectors of the file: output = "dense_vecs" without kind'
        )
    missing = [k for k in declared if not declared[k] and k not in settings]
    if missing:
        raise ModelProblem(_ask(name, ref, onnx, missing))
    if all(declared.values()):
        return home
    files = _declarations(home, whole=declared["pooling"])
    if not declared["tokenizer"]:
        files[(Path(path) / "tokenizer.json").as_posix()] = _tokenizer(name, str(settings["tokenizer"]))
    if not declared["max_seq_length"]:
        file = (Path(path) / "sentence_bert_config.json").as_posix()
        files[file] = dump_json({"max_seq_length": settings["max_seq_length"]})
    if not declared["pooling"]:
        kinds = ["Transformer", "Pooling", *(["Normalize"] if settings.get("normalize") else [])]
        files["modules.json"] = dump_json(module_list("sentence_transformers.models", *kinds))
        files["1_Pooling/config.json"] = dump_json({"pooling_mode": settings["pooling"]})
    return _kept(name, files)


def module_list(package: str, *names: str, start: int = 0) -> list[dict[str, Any]]:
    """The entries of ``modules.json``, each module but the first in a folder of its own.

    Args:
        package: Where sentence-transformers has the modules' classes.
        names: Of the classes, in order.
        start: The number of the first of them.
    """
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"{package}.{name}"}
        for i, name in enumerate(names, start)
    ]


def _ask(name: str, ref: str, onnx: Path, missing: list[str]) -> str:
    values = {"tokenizer": "REF", "pooling": "MODE", "max_seq_length": "TOKENS"}
    quoted = {k: v if v == "TOKENS" else f'"{v}"' for k, v in values.items()}
    table = ", ".join([f'ref = "{ref}"', *(f"{k} = {quoted[k]}" for k in missing)])
    options = " ".join(f"--{k.replace('_', '-')} {values[k]}" for k in missing)
    return (
        f"model {name!r}: {onnx.name} comes without {', '.join(missing)}, and qguard cannot detect a wrong guess. State what its "
        f"authors say, normalize = true too where they normalize: {name} = {{ {table} }} in [tool.qguard.models], or run "
        f"qguard init {ref} {options}   (REF is a hub id, folder or package:NAME/PATH with a tokenizer.json)"
    )


def _declarations(home: Path, *, whole: bool) -> dict[str, bytes]:
    """Every file that declares something, and the weights of heads; those at the top alone where no modules are declared."""
    sources = home.rglob("*") if whole else home.glob("*")
    found = {}
    for source in sources:
        relative = source.relative_to(home)
        head = source.suffix == ".safetensors" and len(relative.parts) > 1
        if source.is_file() and (source.suffix in (".json", ".txt", ".model") or head) and "onnx" not in relative.parts:
            found[relative.as_posix()] = source.read_bytes()
    return found


def _tokenizer(name: str, ref: str) -> bytes:
    place = locate(name, ref, files=("tokenizer.json", "*/tokenizer.json"))
    file = place / (transformer_path(place) if place.is_dir() else "") / "tokenizer.json"
    if not file.is_file():
        raise ModelProblem(f"model {name!r}: tokenizer = {ref!r} leads to a folder without tokenizer.json")
    return file.read_bytes()


def _kept(name: str, files: dict[str, bytes]) -> Path:
    """The folder of ``files`` in the cache, written anew where it is missing or not what was written."""
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    folder = cache_folder() / "layouts" / f"{name}-{sha256_json(hashes)[:16]}"

    def fill(work: Path) -> None:
        for path, data in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(data)

    try:
        return built_once(folder, lambda: folder if folder.exists() and tree_hashes(folder) == hashes else None, fill)
    except OSError as e:
        raise ModelProblem(
            f"model {name!r}: no cache ({e.strerror or e}); free space or set QGUARD_CACHE to a writable folder"
        ) from e
