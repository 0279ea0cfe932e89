"""Where a reference leads: into an installed package, to a local folder or ONNX file, or into the hub's cache."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from qguard.errors import ModelProblem
from qguard.files import inside

# What a sentence-transformers folder may contain that we read; pickles and code are never fetched.
HUB_FILES = (
    "*.json", "*.safetensors", "*.txt", "*.model", "model.onnx", "model.onnx_data", "onnx/model.onnx", "onnx/model.onnx_data",
)  # fmt: skip
# What people call the folders that hold their models, and the files in them: such a name is never looked up on the hub
_FOLDERS = {
    "model", "models", "checkpoint", "checkpoints", "ckpt", "weights", "artifact", "artifacts", "output", "outputs", "out",
    "export", "exports", "build", "dist", "data", "assets", "resources", "tmp", "local", "saved", "trained", "finetuned", "onnx",
    "src", "tests",
}  # fmt: skip
_FILES = (".onnx", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".zip", ".tar", ".gz")


def locate(
    name: str, ref: str, revision: str | None = None, files: tuple[str, ...] = HUB_FILES, *, was_folder: bool = False
) -> Path:
    """The folder, or the ``.onnx`` file, that ``ref`` names.

    Args:
        name: The configuration's name for the model, for messages.
        ref: ``package:NAME/PATH`` (a distribution or import package, and what is meant inside it), a local path, or a hub id;
            ``hf:ORG/NAME`` is a hub id whatever lies in the working folder.
        revision: Branch, tag or commit; hub ids only.
        files: What to fetch from the hub.
        was_folder: The reference was a folder before. One that is missing now is never looked up on the hub.

    Raises:
        ModelProblem: if nothing is there, or the hub cannot be reached and the model is not in its cache.
    """
    if ref.startswith("package:"):
        return _in_package(ref)
    if ref.startswith("hf:"):
        return _in_hub(name, ref.removeprefix("hf:"), revision, files)
    path = Path(ref).expanduser()
    if _usable(path):
        return path.resolve()
    if was_folder or _looks_local(ref, path):
        hub = f"; for a hub id of that name: hf:{ref}" if ref.count("/") == 1 and not ref.startswith((".", "/", "~")) else ""
        before = ", as when its golden was recorded" if was_folder else ""
        raise ModelProblem(
            f"model {name!r}: {ref} is not a folder; expected a folder in sentence-transformers layout{before}{hub}"
        )
    return _in_hub(name, ref, revision, files)


def is_local(ref: str) -> bool:
    """Whether a reference leads to a folder or file of this machine as it stands now: neither to a package nor to the hub."""
    return not ref.startswith(("package:", "hf:")) and _usable(Path(ref).expanduser())


def _looks_local(ref: str, path: Path) -> bool:
    """Whether a reference without a file behind it was meant as a path: somebody on the hub may own that name."""
    first, _, rest = ref.replace("\\", "/").partition("/")
    return bool(
        ref.startswith((".", "/", "~"))
        or "\\" in ref
        or ref.count("/") > 1
        or ref.endswith("/")
        or path.suffix in _FILES
        or path.exists()
        or (rest and (first.lower() in _FOLDERS or Path(first).exists()))
    )


def _usable(path: Path) -> bool:
    return path.is_dir() or (path.suffix == ".onnx" and path.is_file())


def _in_package(ref: str) -> Path:
    package, _, inner = ref.removeprefix("package:").partition("/")
    spec = None
    for candidate in dict.fromkeys((package, package.replace("-", "_"), *_import_names(package))):
        try:
            spec = spec or importlib.util.find_spec(candidate)
        except (ImportError, ValueError):
            spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelProblem(f"model {ref}: the package {package!r} is not installed; pip install {package}")
    path = inside(Path(next(iter(spec.submodule_search_locations))), inner)
    if not _usable(path):
        raise ModelProblem(f"model {ref}: the package {package!r} has no folder {inner!r}")
    return path


def _import_names(distribution: str) -> list[str]:
    """The folders that a distribution installs: their names may differ from its own in case and punctuation."""
    try:
        files = importlib.metadata.files(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    return sorted({f.parts[0] for f in files if len(f.parts) > 1 and f.name == "__init__.py"})


def _in_hub(name: str, ref: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo = ref if "/" in ref else f"sentence-transformers/{ref}"
    where = f"{repo}@{revision}" if revision else repo
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except HFValidationError as e:
        raise ModelProblem(f"model {name!r}: {ref!r} is neither a folder nor a valid hub id") from e
    except (RepositoryNotFoundError, RevisionNotFoundError) as e:
        raise ModelProblem(f"model {name!r}: the hub has no {where}; check the id, the revision and your access") from e
    except (LocalEntryNotFoundError, OSError, RuntimeError) as e:
        raise ModelProblem(
            f"model {name!r}: {where} is not in the local hub cache and the hub cannot be reached "
            f"({type(e).__name__}). Give a folder or package:NAME/PATH, or fill the cache where there is a network"
        ) from e
