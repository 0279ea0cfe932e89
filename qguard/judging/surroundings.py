"""What surrounds an artifact's weights, held against the model's files: whatever the texts of a suite may not show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from qguard.artifacts.artifact import TOKENIZER_FILES, Artifact
from qguard.artifacts.gguf import differences_in_file
from qguard.encoders.consumers import TokenizerFiles, differences
from qguard.encoders.probes import PROBES
from qguard.encoders.runtimes import GGUF
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import GoldenProblem
from qguard.goldens import Golden
from qguard.models.model import Model
from qguard.models.modules import MultiVectorMask
from qguard.models.pipeline import ROLES, ST_CONFIG, Late, Pipeline, declared_prompts

_SHOWN = 3
_LENGTH = "sentence_bert_config.json"


def prove(artifact: Artifact, model: Model, golden: Golden | None = None) -> None:
    """Every library that reads the artifact's files prepares texts as it does with the model's.

    Args:
        artifact: What is judged. Where it declares nothing itself, the model's files serve.
        model: The fp32 model.
        golden: Its tokenizer is right as well, where it stores one.

    Raises:
        GoldenProblem: with each setting that differs, and who obeys it.
        ModelProblem: when a file is missing or damaged.
    """
    if words := difference(artifact, model, golden):
        raise GoldenProblem(words)


def difference(artifact: Artifact, model: Model, golden: Golden | None = None) -> str:
    """What :func:`prove` says, in words; empty where nothing differs.

    Raises:
        ModelProblem: when a file is missing or damaged.
    """
    if not artifact.has_files:
        return ""
    if found := list(_tokenizer(artifact, model, golden)):
        files = ", ".join(TOKENIZER_FILES)
        return f"the artifact's tokenizer is not the model's: {_listed(found)}. Copy {files} of the model into the artifact"
    if artifact.kind == GGUF and artifact.file is not None and (found := list(differences_in_file(artifact.file, model))):
        return f"the GGUF file is not of this model: {_listed(found)}. Convert the model again, or give the file of this model"
    if found := list(_declared(artifact, model)):
        return (
            f"the artifact declares other settings than the model: {_listed(found)}. Copy the model's file into the artifact; "
            "prompts and max_seq_length can also be stated in [tool.qguard.models], for the model and every artifact"
        )
    return ""


def _listed(found: list[str]) -> str:
    return "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _tokenizer(artifact: Artifact, model: Model, golden: Golden | None) -> Iterator[str]:
    if artifact.tokenizer_root == model.root:
        return
    other = golden.tokenizer if golden else None
    own, found = TokenizerFiles.read(model.root), TokenizerFiles.read(artifact.tokenizer_root)
    length = model.pipeline.max_seq_length
    yield from map(str, differences(own, found, length, exact=model.static, other=other))


def _declared(artifact: Artifact, model: Model) -> Iterator[str]:
    """Prompts, lengths and what else a pipeline says of texts and their ranking; its modules show in the vectors."""
    ours, theirs = model.pipeline, _own(artifact, model)
    yield from _prompts(ours, theirs)
    for name, file in (("max_seq_length", _LENGTH), ("truncation_side", TOKENIZER_FILES[1]), ("similarity", ST_CONFIG)):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a != b:
            yield f"{'similarity_fn_name' if name == 'similarity' else name} in {file} is {b}, the model's {a}"
    yield from _by_role(ours, theirs)
    yield from _of_tokens(ours, theirs)
    yield from _scoring(ours, theirs)
    if ours.do_lower_case != theirs.do_lower_case:
        # of an uncased vocabulary it changes nothing
        a, b = (
            TextTokenizer.open(artifact.tokenizer_root, replace(theirs, do_lower_case=p.do_lower_case))(PROBES)
            for p in (ours, theirs)
        )
        if a != b:
            yield f"do_lower_case in {_LENGTH} is {theirs.do_lower_case}, the model's {ours.do_lower_case}"


def _scoring(ours: Pipeline, theirs: Pipeline) -> Iterator[str]:
    """What a cross-encoder's logits mean."""
    a, b = ours.scoring, theirs.scoring
    if a is None or b is None:
        return
    if a.activation != b.activation:
        yield f"activation_fn in {ST_CONFIG} (or config.json) is {b.activation}, the model's {a.activation}"
    if a.labels != b.labels:
        yield f"id2label in config.json names {', '.join(b.labels)}, the model's {', '.join(a.labels)}"
    if a.typed != b.typed:
        found, wanted = ("read" if p.typed else "not read" for p in (b, a))
        where = "type_vocab_size in config.json, model_input_names in tokenizer_config.json"
        yield f"token_type_ids are {found} ({where}), the model's {wanted}"


def _by_role(ours: Pipeline, theirs: Pipeline) -> Iterator[str]:
    """What decides the vectors of queries and documents alone: a suite may have none of them."""
    if ours.include_prompt != theirs.include_prompt and any(ours.prefix(role) for role in (None, *ROLES)):
        found, wanted = (json.dumps(p.include_prompt) for p in (theirs, ours))
        yield f"include_prompt of the pooling is {found}, the model's {wanted}"
    if ours.routed != theirs.routed:
        has, one = ("has a", "none") if theirs.routed else ("has no", "has one")
        yield f"modules.json {has} Router, and the model {one}"
    elif ours.routed and _unplaced([m.declared() for m in ours.head]) != _unplaced([m.declared() for m in theirs.head]):
        yield "the Router gives texts of some role other modules than the model"


def _of_tokens(ours: Pipeline, theirs: Pipeline) -> Iterator[str]:
    """How long queries and documents are, what queries are filled up with, and which of their tokens count."""
    a, b = asdict(ours.late or Late()), asdict(theirs.late or Late())
    for name in ("query_length", "document_length"):
        if a[name] != b[name]:
            yield f"{name} in {_LENGTH} is {b[name] or 'missing'}, the model's {a[name] or 'missing'}"
    for name in ("strategy", "length", "token", "attend"):
        if a[name] != b[name]:
            found, wanted = (json.dumps(value[name]) if value["strategy"] else "missing" for value in (b, a))
            key = f"{name} of query_expansion" if a["strategy"] and b["strategy"] else "query_expansion"
            yield f"{key} in {_LENGTH} is {found}, the model's {wanted}"
            if not (a["strategy"] and b["strategy"]):
                break
    masks = [next((m for m in p.head if isinstance(m, MultiVectorMask)), MultiVectorMask()) for p in (ours, theirs)]
    for name, attribute in (("skiplist_words", "skipped"), ("skiplist_tasks", "skipped_of"), ("keep_only_token_ids", "kept")):
        wanted, found = ("".join(map(str, getattr(m, attribute))) or "empty" for m in masks)
        if set(getattr(masks[0], attribute)) != set(getattr(masks[1], attribute)):
            yield f"{name} of the MultiVectorMask module is {found}, the model's {wanted}"


def _unplaced(value: Any) -> Any:
    """What modules declare, wherever their folders are."""
    if isinstance(value, Mapping):
        return {k: _unplaced(v) for k, v in value.items() if k != "path"}
    return [_unplaced(v) for v in value] if isinstance(value, list | tuple) else value


def _own(artifact: Artifact, model: Model) -> Pipeline:
    """What the artifact's own files declare: also the prompts that lie beside an ONNX file without modules."""
    if artifact.folder != model.folder or artifact.file is None or "prompts" in model.settings:
        return artifact.pipeline
    places = (artifact.tokens, artifact.file.parent)
    place = next((p for p in places if p and p != model.folder and (p / ST_CONFIG).exists()), None)
    return replace(artifact.pipeline, **declared_prompts(place)) if place else artifact.pipeline


def _prompts(ours: Pipeline, theirs: Pipeline) -> Iterator[str]:
    for name in sorted({**ours.prompts, **_used(theirs)}):
        a, b = ours.prompts.get(name, ""), theirs.prompts.get(name, "")
        if a != b:
            yield f"prompt {name!r} in {ST_CONFIG} is {_quoted(b)}, the model's {_quoted(a)}"
    if ours.prefix() != theirs.prefix() and ours.default_prompt != theirs.default_prompt:
        found, wanted = _quoted(theirs.default_prompt), _quoted(ours.default_prompt)
        yield f"default_prompt_name in {ST_CONFIG} is {found}, the model's {wanted}"


def _used(pipeline: Pipeline) -> Mapping[str, str]:
    """The prompts that some text is given; of others the model knows nothing."""
    used = {pipeline.prefix(role) for role in (None, "query", "document")} - {""}
    return {name: text for name, text in pipeline.prompts.items() if text in used}


def _quoted(text: str | None) -> str:
    return repr(text) if text else "missing"
