"""Where a fault is put: the sound artifact, a folder to work in, and what comes out of it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.artifacts.artifact import PROVENANCE, Artifact, copy_layout
from qguard.errors import ArtifactProblem
from qguard.files import dump_json, inside, read_json, tree_hashes
from qguard.kinds import KINDS

if TYPE_CHECKING:
    from qguard.encoders import Floats, Runtime
    from qguard.faults.surgery import ArtifactGraph
    from qguard.judging.session import Session
    from qguard.metrics import Comparison
    from qguard.models.model import Model
    from qguard.precisions import Precision


class NotApplicable(Exception):
    """This model, precision or suite cannot have the fault; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """What is judged instead of the sound artifact. What is not given stays as it was.

    Attributes:
        artifact: A folder with the fault in it.
        golden: A folder of goldens.
        runtime: What stands around the runtime; it is called as the runtime is, with token ids and their mask, or with texts
            and their roles.
        batch: What comes between an encoder and its caller: given the rows of a batch and their vectors (n, dim), the vectors
            that come back.
        stored: Makes a comparison of int8 vectors; the candidate is then judged as ``PRECISION+int8``.
        deployed: The deployed artifact; the candidate is then judged by its latency alone, also against that.
    """

    artifact: Path | None = None
    golden: Path | None = None
    runtime: Callable[[Runtime], Runtime] | None = None
    batch: Callable[[Sequence[Any], Floats], Floats] | None = None
    stored: Callable[[Comparison], Comparison] | None = None
    deployed: Path | None = None


@dataclass(frozen=True)
class FaultSite:
    """The sound state of one precision of one model.

    Attributes:
        session: Judges the sound artifact.
        precision: What is judged.
        model: Its name.
        suites: The suites that judge it.
        work: An empty folder.
    """

    session: Session
    precision: Precision
    model: str
    suites: tuple[str, ...]
    work: Path

    @property
    def base(self) -> Model:
        """The fp32 model."""
        return self.session.model(self.model)

    def need(self, kind: str) -> None:
        """A fault that only models of one kind have.

        Raises:
            NotApplicable: of a model of another kind.
        """
        if self.base.kind != kind:
            raise NotApplicable(f"the model gives {KINDS[self.base.kind].gives}, not {KINDS[kind].gives}")

    @cached_property
    def artifact(self) -> Artifact:
        """The sound artifact."""
        return self.session.artifact(self.precision, self.model)

    @cached_property
    def folder(self) -> Path:
        """A whole copy of the sound artifact, to be changed; made when it is first asked for."""
        target = self.work / "artifact"
        source, file = self.artifact.folder, self.artifact.file
        if file is None or ((source == file.parent or source in file.parents) and source != self.base.folder):
            shutil.copytree(source, target)
            return target
        copy_layout(self.base, target)  # a bare file of another tool
        if self.artifact.onnx is None:
            shutil.copyfile(file, target / file.name)
            return target
        inner = target / self.artifact.pipeline.transformer / "onnx"
        inner.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, inner / "model.onnx")
        for part in self.artifact.weight_files[1:]:
            inside(inner, part.relative_to(file.parent).as_posix()).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, inner / part.relative_to(file.parent))
        return target

    @property
    def file(self) -> Path:
        """The copy's ONNX file.

        Raises:
            NotApplicable: for an artifact without one.
        """
        if self.artifact.onnx is None:
            raise NotApplicable("the artifact holds no ONNX file whose graph could be changed")
        return self.single

    @property
    def single(self) -> Path:
        """The copy's ONNX or GGUF file.

        Raises:
            NotApplicable: for an artifact without one.
        """
        source = self.artifact.file
        if source is None:
            raise NotApplicable("the artifact holds no single file")
        found = [*self.folder.rglob(source.name), *self.folder.rglob("model.onnx")]
        return found[0]

    @cached_property
    def graph(self) -> ArtifactGraph:
        """The copy's graph, open."""
        from qguard.faults.surgery import ArtifactGraph

        return ArtifactGraph(self.file)

    def operated(self) -> Candidate:
        """The copy with its changed graph, as if the recipe had made it so."""
        self.graph.write()
        return self.sealed()

    def sealed(self) -> Candidate:
        """The copy as it is now, its provenance made to fit: nothing but the gates can tell."""
        path = self.folder / PROVENANCE
        if path.exists():
            record = read_json(path, ArtifactProblem)
            path.write_bytes(dump_json({**record, "files": tree_hashes(self.folder, (PROVENANCE,))}))
        return Candidate(self.folder)

    def config(self, name: str) -> tuple[Path, dict[str, Any]]:
        """A JSON file of the copy: where it is, and what it holds, nothing where it is missing."""
        path = self.folder / name
        return path, read_json(path, ArtifactProblem) if path.exists() else {}

    def token_counts(self) -> Counter[int]:
        """How often each token id occurs in the suites; special tokens, which texts may spell out, are none of the words."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.base.root / "tokenizer.json"))
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        rows = (row for s in self.suites for row in self.session.golden(self.model, s).token_ids)
        return Counter(token for row in rows for token in row if token not in special)

    def two_words(self, kind: str, of: int) -> tuple[int, int]:
        """Two token ids.

        Args:
            kind: ``common``: the two that occur most; ``rare``: two that occur once; ``unused``: two that no text has.
            of: Size of the vocabulary.

        Raises:
            NotApplicable: where there are no two such ones.
        """
        counts = self.token_counts()
        found = sorted((t for t in counts if t < of), key=lambda t: (-counts[t], t))
        if kind == "rare":
            found = [t for t in found if counts[t] == 1]
        elif kind == "unused":  # far from the special tokens and placeholders at the beginning
            found = [t for t in range(of // 2, of) if t not in counts]
        if len(found) < 2:
            raise NotApplicable(f"the suites have no two {kind} words")
        return found[0], found[1]
