"""The pipeline that the folder of a sparse model declares: a masked language model and a SpladePooling behind it."""

from __future__ import annotations

from pathlib import Path

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.kind import MASKED, ROUTERS
from qguard.models.modules import Module, read_modules
from qguard.models.modules.splade import Largest, SpladePooling
from qguard.models.pipeline import (
    ST_CONFIG,
    Pipeline,
    declared_modules,
    lengths,
    prompts_of_roles,
    read_optional,
    transformer_settings,
)

SIMILARITIES = ("dot", "cosine")
# what the Transformer of release 6 declares where it gives the logits of a masked language model
_LOGITS = {"transformer_task": "fill-mask"}
_OF_TEXT = {"method": "forward", "method_output_name": "logits"}
_LEARNED = "it chooses the largest of many learned features of a dense vector, which are no words"
_LOOKED_UP = "it looks weights up and multiplies nothing, so that nothing can be quantized"
# why these are not reproduced
_REFUSED = {"SparseAutoEncoder": _LEARNED, "CSRSparsity": _LEARNED, "SparseStaticEmbedding": _LOOKED_UP, "IDF": _LOOKED_UP}


def read(folder: Path) -> Pipeline:
    """Read the modules and settings of a sparse model.

    A folder without ``modules.json`` is a masked language model whose logits are max-pooled, as by sentence-transformers.

    Raises:
        ModelProblem: for a module or setting that is not reproduced; it is named, never ignored.
    """
    (kind, path), *rest = declared_modules(folder)
    if kind in ROUTERS:
        raise ModelProblem(
            "the Router sends queries and documents to different first modules (inference-free SPLADE), and qguard judges models "
            'with one. Judge the document side, which is what is quantized, as a model of its own: python -c "from '
            "sentence_transformers import SparseEncoder as S; m = S('FOLDER'); "
            "S(modules=list(m[0].sub_modules['document']), prompts=m.prompts).save('COPY')\""
        )
    for name in (kind, *(name for name, _ in rest)):
        if name in _REFUSED:
            raise ModelProblem(
                f"module {name!r} of a sparse model cannot be reproduced: {_REFUSED[name]}; give a SPLADE model (a masked "
                "language model and a SpladePooling)"
            )
    if kind not in ("Transformer", "MLMTransformer"):
        raise ModelProblem(
            f"the first module of a sparse model is {kind!r}; expected a Transformer that gives logits (fill-mask)"
        )
    root = inside(folder, path)
    if (
        (folder / "modules.json").exists()
        and kind == "Transformer"
        and transformer_settings(root).get("transformer_task") is None
    ):
        raise ModelProblem(
            f"the Transformer of {folder.name} is not declared to give logits, and a SpladePooling needs them; add "
            '"transformer_task": "fill-mask" to its sentence_bert_config.json, or save the model with sentence-transformers 6'
        )
    head = _head(folder, root, rest)
    there = frozenset([head[0].reads])
    for module in head:
        there = module.after(there)
    settings = lengths(root, {} if kind == "MLMTransformer" else _LOGITS, _OF_TEXT)
    return Pipeline(head, transformer=path, similarity=_similarity(folder), **settings, **prompts_of_roles(folder))


def _head(folder: Path, root: Path, rest: list[tuple[str, str]]) -> tuple[Module, ...]:
    if not (folder / "modules.json").exists():
        names = read_json(root / "config.json", ModelProblem).get("architectures")
        found = [str(n) for n in names] if isinstance(names, list) else []
        if not any(n.endswith(MASKED) for n in found):
            raise ModelProblem(
                f"{folder.name} is {', '.join(found) or 'of no architecture'}, and no modules.json says how it weighs words; "
                f"expected a …{MASKED}, whose logits sentence-transformers max-pools, or a folder that SparseEncoder saved"
            )
        head: tuple[Module, ...] = (SpladePooling("1_SpladePooling"),)
    else:
        head = read_modules(folder, rest)
    if not head or not isinstance(head[0], SpladePooling) or len(head) > 1:
        names = ", ".join(name for name, _ in rest) or "none"
        raise ModelProblem(f"expected one SpladePooling behind the Transformer of a sparse model, found {names}")
    most = read_optional(folder / ST_CONFIG).get("max_active_dims")
    if most is None:
        return head
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ModelProblem(f"max_active_dims of {ST_CONFIG}: expected a number from 1 on, found {most!r}")
    return (*head, Largest(count=most))


def _similarity(folder: Path) -> str:
    found = read_optional(folder / ST_CONFIG).get("similarity_fn_name") or "dot"
    if found not in SIMILARITIES:
        raise ModelProblem(
            f"similarity_fn_name of {ST_CONFIG}: expected {' or '.join(SIMILARITIES)} of a sparse model, found {found!r}; an "
            "inverted index computes no other"
        )
    return str(found)
