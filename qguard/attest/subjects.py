"""The files of an artifact, each with its SHA-256: what a verdict is bound to."""

from __future__ import annotations

from pathlib import Path

from qguard.artifacts.artifact import TOKENIZER_FILES, data_files, tokens_beside
from qguard.artifacts.candidates import place
from qguard.console.progress import progress
from qguard.errors import ArtifactProblem
from qguard.files import inside, sha256_file


def home(path: Path) -> Path | None:
    """The whole model folder that an ONNX file lies in, with whose tokenizer and heads it is judged; ``None`` for a bare file."""
    return next((f for f in (path.parent, path.parent.parent) if _whole(f)), None)


def _whole(folder: Path) -> bool:
    return (folder / "modules.json").exists() and (folder / "tokenizer.json").exists()


def name_in_folder(path: Path, file: Path | None = None) -> str:
    """The name of an ONNX file in the folder whose files are hashed; empty for a bare file, and where no file is named.

    Args:
        path: The artifact, as in :func:`digests`.
        file: The file of a folder; by default the one that ``path`` names.
    """
    folder, named = place(path)
    if folder.is_dir():
        return file.relative_to(folder).as_posix() if file and file.is_relative_to(folder) else named
    whole = home(folder)
    return folder.relative_to(whole).as_posix() if whole else ""


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of every file of an artifact.

    Args:
        path: A folder: every file in it, hidden ones too, whichever is named after ``#``. An ``.onnx`` or ``.gguf`` file: those
            of the model folder that it lies in; alone, the file, the external data that it names, and the tokenizer's files
            beside it.

    Returns:
        Relative POSIX path → 64 hexadecimal digits, sorted.

    Raises:
        ArtifactProblem: when there is nothing to hash, a path leaves the folder, or something in it is no plain file.
    """
    path, _ = place(path)
    if not path.exists():
        raise ArtifactProblem(f"no artifact at {path}; expected a folder, or an .onnx or .gguf file")
    folder = path if path.is_dir() else home(path)
    if folder is None:
        folder = tokens_beside(path) or path.parent
        files = [*data_files(path), *(folder / name for name in TOKENIZER_FILES)]
        names = sorted(f.relative_to(folder).as_posix() for f in files if f.exists() or f.suffix != ".json")
    else:
        names = list(_names(folder))
    if not names:
        raise ArtifactProblem(f"{path.name} holds no file")
    found = {}
    try:
        with progress("reading the artifact", len(names), after=1.0) as advance:
            for name in names:
                found[name] = sha256_file(inside(folder, name))
                advance()
    except OSError as e:
        raise ArtifactProblem(f"{path.name} cannot be read: {e.strerror or e}") from e
    return found


def _names(folder: Path) -> list[str]:
    names = []
    for p in folder.rglob("*"):
        name = p.relative_to(folder).as_posix()
        if p.is_dir() and not p.is_symlink():
            continue
        if not p.is_file():  # a link to a folder, whose files would not be seen; a dangling link, a device, a pipe
            raise ArtifactProblem(f"{folder.name}: {name} is no plain file; an artifact holds files and folders alone")
        names.append(name)
    return sorted(names)
