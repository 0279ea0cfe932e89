"""Which of an artifact folder's files are judged: by a stated rule, or by name; what the rule leaves open is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qguard.encoders.runtimes import GGUF, RUNTIMES, SAFETENSORS
from qguard.errors import ArtifactProblem
from qguard.files import inside
from qguard.gguf.read import SUFFIX

GIVEN = "the file that was given"
_LISTED = 8


@dataclass(frozen=True)
class Choice:
    """The files that are judged.

    Attributes:
        file: The ONNX or GGUF file; ``None`` for safetensors.
        rule: Why these, in words.
        others: What else could have been judged, relative to the folder.
    """

    file: Path | None
    rule: str
    others: tuple[str, ...] = ()


def place(path: Path) -> tuple[Path, str]:
    """An artifact's path and the file in it that is named after ``#``, as in ``DIR#onnx/model_int8.onnx``; else empty."""
    if path.exists() or "#" not in str(path):
        return path, ""
    folder, _, name = str(path).partition("#")
    while not Path(folder).exists() and "#" in name:  # of a folder with # in its name
        more, _, name = name.partition("#")
        folder = f"{folder}#{more}"
    return Path(folder), name


def choose(folder: Path, transformer: str, runtime: str, named: str = "") -> Choice:
    """The file that is named. Else, of ONNX files, safetensors and GGUF files, what ``runtime`` reads; another kind where it is
    alone.

    Args:
        folder: The artifact.
        transformer: Its transformer's folder, relative to it.
        runtime: What the precision runs in.
        named: A file in ``folder``, or empty.

    Raises:
        ArtifactProblem: when there is nothing, or several files are left, each listed with how it is named.
    """
    inside(folder, transformer)
    root = folder / transformer  # as it is written, links unresolved: names are relative to the folder
    onnx = list(dict.fromkeys(f for at in (root, folder) for name in ("onnx/*.onnx", "*.onnx") for f in sorted(at.glob(name))))
    tensors = sorted(root.glob("*.safetensors"))
    gguf = sorted(folder.glob(f"*{SUFFIX}"))
    every = _names(folder, [*onnx, *tensors, *_ir(folder), *gguf])
    if named:
        return _named(folder, named, every, tensors)
    ir = _names(folder, _ir(folder))
    if gguf and (RUNTIMES.find(runtime).files == GGUF or not (onnx or tensors)):
        return _only(folder, gguf, "GGUF", every)
    if not onnx and not tensors:
        unread = f"; its OpenVINO IR ({ir[0]}) is not read: give the ONNX file of the same model" if ir else ""
        raise ArtifactProblem(f"{folder.name} holds neither an ONNX file nor safetensors weights nor a GGUF file{unread}")
    if ir and runtime == "openvino":
        raise ArtifactProblem(
            f"{folder.name} holds an OpenVINO IR ({ir[0]}), which OpenVINO would open and qguard does not read. To judge another "
            f"file in its place, name it: {_ways(folder, _names(folder, onnx)) or 'there is no ONNX file beside it'}"
        )
    if tensors and (not onnx or RUNTIMES.find(runtime).files == SAFETENSORS):
        others = tuple(n for n in every if n not in _names(folder, tensors))
        return Choice(None, f"{runtime} reads safetensors" if onnx else "there is no ONNX file", others)
    return _only(folder, onnx, "ONNX", every)


def _only(folder: Path, files: list[Path], kind: str, every: list[str]) -> Choice:
    """The one file of a kind."""
    if len(files) > 1:
        raise ArtifactProblem(
            f"{folder.name} holds several {kind} files, and one of them is deployed. Name it: "
            f"{_ways(folder, _names(folder, files))}"
        )
    (file,) = files
    others = tuple(n for n in every if n not in _names(folder, [file]))
    return Choice(file, f"the only {kind} file" if others else "the only model file", others)


def _named(folder: Path, named: str, every: list[str], tensors: list[Path]) -> Choice:
    if not inside(folder, named).is_file():
        raise ArtifactProblem(f"{folder.name}#{named}: no such file there; found {', '.join(every) or 'no model file'}")
    file = folder / named  # not what a link leads to, which has another name
    rule, others = "named after #", tuple(n for n in every if n != file.relative_to(folder).as_posix())
    if file.suffix in (".onnx", SUFFIX):
        return Choice(file, rule, others)
    if file in tensors:
        return Choice(None, rule, tuple(n for n in others if n not in _names(folder, tensors)))
    raise ArtifactProblem(
        f"{folder.name}#{named}: expected an .onnx or .gguf file, or the transformer's safetensors, found {file.suffix}"
    )


def _ir(folder: Path) -> Iterator[Path]:
    return (f for name in ("openvino/*.xml", "*.xml") for f in sorted(folder.glob(name)) if f.with_suffix(".bin").exists())


def _names(folder: Path, files: list[Path] | Iterator[Path]) -> list[str]:
    return [f.relative_to(folder).as_posix() for f in files]


def _ways(folder: Path, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"--artifact={folder}#{name}" for name in names[:_LISTED]) + more
