"""Multi-vector models, such as ColBERT: the pipeline that their folder declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside
from qguard.models.kind import PYLATE
from qguard.models.modules import TOKENS, refusal
from qguard.models.modules.masking import MultiVectorMask
from qguard.models.pipeline import (
    ST_CONFIG,
    Late,
    Pipeline,
    lengths,
    prompts_of_roles,
    read_optional,
    split,
    transformer_settings,
)

# sentence-transformers' names; qguard.vectors.multi_vector computes them
SIMILARITIES = ("maxsim", "meanmaxsim")
_OWN = ("query_length", "document_length", "query_expansion")
_EXPANSION = {"strategy", "attend", "token", "length"}


def read(folder: Path) -> Pipeline:
    """The pipeline of a folder that sentence-transformers 6 saved.

    Raises:
        ModelProblem: for an older layout, and for a module or setting that is not reproduced; it is named.
    """
    if not (folder / "modules.json").exists() or read_optional(folder / ST_CONFIG).get("model_type") == PYLATE:
        raise ModelProblem(older(folder.name))
    first, path, head = split(folder)
    if first != "Transformer":
        raise ModelProblem(refusal(first, path))
    for module in head:
        if (module.reads, module.writes) != (TOKENS, TOKENS):
            raise ModelProblem(
                f"module {type(module).__name__!r} in {module.path} reads {module.reads} and gives {module.writes}; "
                f"expected {TOKENS} of a multi-vector model. State that in its config.json (module_input_name), or leave it out"
            )
    root = inside(folder, path)
    settings = transformer_settings(root)
    late = _late(settings)
    declared = lengths(root, {key: settings.get(key) for key in _OWN})  # which are read here
    if late.strategy and _left(root):
        raise ModelProblem(
            f"the tokenizer in {root.name} pads on the left and queries are filled up: their tokens then begin at other "
            "positions, which is not reproduced. Give a model whose tokenizer pads on the right"
        )
    if late.strategy and not late.attend and not any(isinstance(m, MultiVectorMask) for m in head):
        raise ModelProblem(
            "query_expansion fills queries up, and modules.json has no MultiVectorMask that lets these tokens count; add one, or "
            "remove query_expansion"
        )
    return Pipeline(head, transformer=path, similarity=_similarity(folder), late=late, **declared, **prompts_of_roles(folder))


def older(name: str) -> str:
    """Why a layout from before sentence-transformers 6 is not read, and the way out.

    Args:
        name: Of the folder.
    """
    return (
        f"{name} is a ColBERT model in the layout of PyLate or of Stanford's library. Save it in that of sentence-transformers 6 "
        'and give the copy: python -c "from sentence_transformers import MultiVectorEncoder as M; '
        "M('FOLDER').save_pretrained('COPY')\""
    )


def _similarity(folder: Path) -> str:
    found = read_optional(folder / ST_CONFIG).get("similarity_fn_name")
    return found if found in SIMILARITIES else SIMILARITIES[0]  # as sentence-transformers takes any other name


def _late(settings: Mapping[str, Any]) -> Late:
    query, document = (None if settings.get(k) is None else _number(k, settings[k]) for k in _OWN[:2])
    expansion = settings.get("query_expansion")
    if expansion is None:
        return Late(query, document)
    if not isinstance(expansion, dict) or set(expansion) - _EXPANSION or expansion.get("strategy") not in ("fixed", "min"):
        raise ModelProblem(
            f"query_expansion of sentence_bert_config.json: expected strategy (fixed or min), length, and perhaps attend and "
            f"token, found {expansion!r}"
        )
    token, attend = expansion.get("token"), expansion.get("attend") or False
    if not isinstance(token, str | None) or not isinstance(attend, bool):
        raise ModelProblem(
            "query_expansion of sentence_bert_config.json: expected token to be text and attend true or false, "
            f"found {expansion!r}"
        )
    length = _number("length of query_expansion", expansion.get("length"))
    if query is not None and query < length:
        raise ModelProblem(f"query_length {query} is less than the length of query_expansion, {length}; remove it")
    return Late(query, document, strategy=expansion["strategy"], length=length, token=token or "", attend=attend)


def _number(name: str, found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ModelProblem(f"{name} of sentence_bert_config.json: expected a number from 1 on, found {found!r}")
    return found


def _left(root: Path) -> bool:
    """Whether the tokenizer pads on the left; ``tokenizer_config.json`` wins over ``tokenizer.json``."""
    said = read_optional(root / "tokenizer_config.json").get("padding_side")
    own = read_optional(root / "tokenizer.json").get("padding")
    return str(said or (own.get("direction", "") if isinstance(own, dict) else "")).lower() == "left"
