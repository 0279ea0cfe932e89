"""What is judged of a target, part by part, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qguard.artifacts.artifact import Artifact
from qguard.encoders import TextEncoder
from qguard.encoders.interface import Interface
from qguard.encoders.runtimes import ENDPOINT, GGUF, SAFETENSORS
from qguard.errors import QguardError
from qguard.files import inside
from qguard.gguf.read import read_gguf
from qguard.judging import endpoint
from qguard.judging.session import Session, Target
from qguard.kinds import CROSS_ENCODER, MULTI_VECTOR, SPARSE
from qguard.models.model import Model
from qguard.models.modules import Module, Pooling, SpladePooling
from qguard.models.modules.splade import Largest

ONLY = "the only model file, as its record says"
CONFIGURATION, ARTIFACT, MODEL = "configuration", "artifact", "model"


@dataclass(frozen=True)
class Part:
    """One part of what is judged.

    Attributes:
        name: ``file``, ``runtime``, ``versions``, ``tokenizer``, ``padding``, ``length``, ``prompts``, ``input NAME``,
            ``output``, ``pooling`` or ``normalization``; of a cross-encoder ``labels`` and ``activation``; of a server
            ``server``, ``model``, ``prompts``, ``normalization``, ``scores`` and ``fingerprint``; of a GGUF file
            ``tensors``.
        value: What it is.
        source: Where it comes from: ``artifact``, ``model`` or ``configuration``, or the rule that chose it.
        others: What could have been judged in its place.
    """

    name: str
    value: str
    source: str
    others: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a report has it."""
        return asdict(self)


def judged(session: Session, target: Target) -> list[Part]:
    """Every part, in the order in which a text meets them, after the file."""
    artifact, model = session.artifact(target.precision, target.model), session.model(target.model)
    if target.precision.runtime == ENDPOINT:
        return [Part(*part) for part in endpoint.parts(session, target)]
    if not artifact.has_files:
        return [Part("runtime", target.precision.runtime, "it keeps the model, so that there are no files to name")]
    found = [_file(session, artifact), *_tensors(artifact), _runtime(target, artifact)]
    found += _text(session, target, artifact, model)
    pooled = artifact.kind == GGUF
    try:
        encoder = session.encoder(target.precision, target.model)
    except QguardError as e:  # which the gate tells too
        return [*found, Part("output", "cannot be opened", str(e))]
    texts = isinstance(encoder, TextEncoder)
    interface = None if texts else getattr(encoder.runtime, "interface", None)
    if versions := encoder.versions:
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        at = next(i for i, part in enumerate(found) if part.name == "runtime")
        found.insert(at + 1, Part("versions", listed, "what the runtime says of itself"))
    if artifact.kind == SAFETENSORS and not model.static:
        gives = "logits" if model.kind in (CROSS_ENCODER, SPARSE) else "last_hidden_state"
        found.append(Part("output", gives, "what the network gives"))
    if isinstance(interface, Interface):
        output = interface.output
        pooled = output.finished or output.port.rank == 2
        found += [
            Part(f"input {name}", *_fed(name, words, artifact, model)) for name, words in interface.feeds.described().items()
        ]
        found.append(Part("output", str(output.port), output.rule, [str(p) for p in output.others]))
    return [*found, *_head(artifact, model, pooled)]


def _file(session: Session, artifact: Artifact) -> Part:
    place = artifact.file
    if place is None:
        names = ", ".join((Path(artifact.pipeline.transformer) / f.name).as_posix() for f in artifact.weight_files)
        return Part("file", names, artifact.rule or "built by qguard", list(artifact.others))
    home = next((p for p in place.parents[:3] if p in (artifact.folder, artifact.tokens)), place.parent)
    home = place.parent.parent if home == place.parent and home.name == "onnx" else home
    built = "built by qguard" if session.artifact_path is None else ONLY
    return Part("file", place.relative_to(home).as_posix(), artifact.rule or built, list(artifact.others))


def _tensors(artifact: Artifact) -> Iterator[Part]:
    """The types of a GGUF file's matrices: its name may say another one."""
    if artifact.kind == GGUF and artifact.file is not None:
        counted = read_gguf(artifact.file).counted()
        words = ", ".join(f"{kind} in {n} ({size / 1e6:.1f} MB)" for kind, (n, size) in counted.items())
        yield Part("tensors", words, "counted in the file, whatever its name says")


def _runtime(target: Target, artifact: Artifact) -> Part:
    wanted = target.precision.runtime
    runs = artifact.runtime(wanted)
    return Part("runtime", runs, "named by the precision" if runs == wanted else f"{wanted} does not read this file")


def _origin(artifact: Artifact, model: Model) -> str:
    """Whose modules and settings apply: the artifact's own, or the model's."""
    return MODEL if artifact.folder == model.folder else ARTIFACT


def _text(session: Session, target: Target, artifact: Artifact, model: Model) -> Iterator[Part]:
    tokenizer, pipeline = session.tokenizer(target.precision, target.model), artifact.pipeline
    own = artifact.tokenizer_root != model.root
    where = "beside the file" if artifact.tokens else "of the artifact" if own else "of the model"
    yield Part("tokenizer", f"tokenizer.json {where}", ARTIFACT if own else MODEL)
    side = f"{ARTIFACT if own else MODEL}: {tokenizer.said}" if tokenizer.said else "the default: no file says a side"
    yield Part("padding", f"{tokenizer.side}, token id {tokenizer.pad_id}", side)
    origin = _origin(artifact, model)
    length = f"{pipeline.max_seq_length} tokens, cut on the {pipeline.truncation_side}"
    if (late := pipeline.late) is not None:
        filled = f", filled up to {late.length}" if late.strategy else ""
        by_role = (late.limit(role, pipeline.max_seq_length) for role in ("query", "document"))
        length = f"queries {next(by_role)}{filled}, documents {next(by_role)}, other texts {length}"
    unlimited = "without limit" if pipeline.static else length
    yield Part("length", unlimited, CONFIGURATION if "max_seq_length" in model.settings else origin)
    prompts = {role: pipeline.prefix(role) for role in ("query", "document", None) if pipeline.prefix(role)}
    words = ", ".join(f"{role or 'other text'}: {text!r}" for role, text in prompts.items()) or "none"
    yield Part("prompts", words, CONFIGURATION if "prompts" in model.settings else origin)


def _fed(name: str, words: str, artifact: Artifact, model: Model) -> tuple[str, str]:
    if name in artifact.feeding.inputs:
        return words, CONFIGURATION
    scoring = model.pipeline.scoring
    if scoring is not None and scoring.typed and words.startswith("zeros"):
        return words.replace("zeros", "0 at the first text of a pair, 1 at the second"), "its name"
    if not words.startswith("positions"):
        return words, "its name"
    own = inside(artifact.folder, artifact.pipeline.transformer)
    said = any((root / "config.json").exists() for root in (own, model.root))
    return words, "its name, and config.json" if said else "its name; no config.json says where positions start"


def _head(artifact: Artifact, model: Model, pooled: bool) -> Iterator[Part]:
    pipeline, origin = artifact.pipeline, _origin(artifact, model)
    if pipeline.scoring is not None:
        yield Part("labels", ", ".join(pipeline.scoring.labels), origin)
        yield Part("activation", pipeline.scoring.activation, origin)
        return
    if pipeline.kind == MULTI_VECTOR:
        yield Part("pooling", "none: each token that counts has a vector", origin)
        yield Part("normalization", "each token to unit length" if pipeline.normalizes_tokens else "none", origin)
        return
    if pipeline.kind == SPARSE:
        words = "; ".join(_of_words(m) for m in pipeline.modules)
        inside = pooled and not model.static
        source = "its output is finished rows of weights" if inside else origin
        yield Part("pooling", f"inside the file (declared: {words})" if inside else words, source)
        return
    modes = [m for m in pipeline.modules if isinstance(m, Pooling)]
    words = ", ".join("+".join(m.modes) for m in modes) or "none: one row a token is averaged by the table"
    if pooled and not pipeline.static:
        yield Part("pooling", f"inside the file (declared: {words})", "its output is finished vectors")
    else:
        yield Part("pooling", words, origin)
    unit = "to unit length" if pipeline.normalize else "none"
    if artifact.kind == GGUF and pipeline.normalize:
        unit += ", applied here: node-llama-cpp gives vectors of any length"
    yield Part("normalization", unit, origin)


def _of_words(module: Module) -> str:
    if isinstance(module, SpladePooling):
        logarithm = "log(1 + log(1 + relu))" if module.activation == "log1p_relu" else "log(1 + relu)"
        return f"{module.strategy} of {logarithm} over a text's tokens"
    return f"the {module.count} largest weights" if isinstance(module, Largest) else type(module).__name__
