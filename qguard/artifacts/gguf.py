"""A GGUF file beside the model that it should be: what it says of its network, its pooling and its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qguard.console.visible import visible
from qguard.errors import ModelProblem
from qguard.files import read_json
from qguard.gguf.read import GgufFile, read_gguf
from qguard.kinds import DENSE, KINDS
from qguard.models.model import Model
from qguard.models.modules import Pooling
from qguard.models.pipeline import Pipeline, read_optional, tokenizer_file

# modes of a pooling that llama.cpp has, by their numbers in a file
POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
_SAID = {0: "none", 4: "rank", **{number: mode for mode, number in POOLING.items()}}
# Transformers' name of a network → llama.cpp's; of others nothing is held against the file's
_NETWORKS = {
    **dict.fromkeys(("bert", "camembert", "roberta", "xlm-roberta", "distilbert"), "bert"),
    "nomic_bert": "nomic-bert", "modernbert": "modern-bert", "eurobert": "eurobert", "qwen2": "qwen2", "qwen3": "qwen3",
    "gemma3_text": "gemma-embedding", "llama": "llama", "mistral": "llama",
}  # fmt: skip
# key of a file → names of the same in config.json
_NUMBERS = {
    "block_count": ("num_hidden_layers", "n_layers"),
    "embedding_length": ("hidden_size", "dim"),
    "attention.head_count": ("num_attention_heads", "n_heads"),
    "feed_forward_length": ("intermediate_size", "hidden_dim"),
}
_EPSILON = "attention.layer_norm_epsilon"
_SHOWN = 3


def pooled_by(pipeline: Pipeline, name: str) -> str:
    """The mode by which llama.cpp pools as a model does; what comes behind is applied to its vectors.

    Args:
        pipeline: The model's.
        name: The model's, for messages.

    Raises:
        ModelProblem: for a model with a pooling, or modules, that llama.cpp has not.
    """
    words = ""
    if pipeline.kind != DENSE:
        words = f"gives {KINDS[pipeline.kind].gives}, and llama.cpp is judged with dense models alone"
    elif pipeline.static:
        words = "is static, one embedding table, which llama.cpp does not read"
    elif len(pipeline.pooling) != 1 or pipeline.pooling[0] not in POOLING:
        words = f"is pooled by {'+'.join(pipeline.pooling) or 'nothing'}, and llama.cpp pools by {', '.join(POOLING)}"
    elif (behind := [m for m in pipeline.head if m not in pipeline.closing])[1:] or not isinstance(behind[0], Pooling):
        words = "has modules behind its pooling that are not applied to finished vectors, and llama.cpp has none of them"
    elif pipeline.by_role:
        words = "pools queries and documents each in its own way, which llama.cpp does not"
    if words:
        raise ModelProblem(f"model {name!r} {words}; judge it in another runtime: --precision int8")
    return pipeline.pooling[0]


def differences_in_file(path: Path, model: Model) -> Iterator[str]:
    """What a file says otherwise than the model, in words.

    Raises:
        ArtifactProblem: see :func:`qguard.gguf.read.read_gguf`.
        ModelProblem: see :func:`pooled_by`.
    """
    file = read_gguf(path)
    wanted = pooled_by(model.pipeline, model.name)
    config = read_optional(model.root / "config.json")
    network = _NETWORKS.get(str(config.get("model_type")))
    if network is not None and file.architecture != network:
        yield f"its architecture is {visible(file.architecture[:40])!r}, the model's {network!r}"
        return  # everything else stands under that name
    for key, names in _NUMBERS.items():
        found, own = file.number(key), next((config[n] for n in names if type(config.get(n)) is int), None)
        if own is not None and found != own:
            yield f"{key} is {found or 'missing'}, the model's {own}"
    epsilon, own = file.of(_EPSILON), config.get("layer_norm_eps")
    if isinstance(own, float) and isinstance(epsilon, float) and abs(epsilon - own) > 1e-3 * own:
        yield f"{_EPSILON} is {epsilon:.3g}, the model's {own:.3g}"
    pooling = file.of("pooling_type")
    if pooling is None:
        yield f"pooling_type is missing, so that whoever serves the file chooses it; the model's is {wanted}"
    elif pooling != POOLING[wanted]:
        yield f"pooling_type is {_SAID.get(pooling, pooling)}, the model's {wanted}"
    if file.of("attention.causal") and network is not None:
        yield "attention is causal, the model's is not"
    if (room := file.number("context_length")) < model.pipeline.max_seq_length:
        yield f"context_length is {room or 'missing'}, and the model's texts have up to {model.pipeline.max_seq_length} tokens"
    yield from _vocabulary(file, model)


def _vocabulary(file: GgufFile, model: Model) -> Iterator[str]:
    """Tokens that are not the model's, where llama.cpp spells them as the model does or as its own form of BERT's."""
    stored = read_json(tokenizer_file(model.root), ModelProblem)
    spelled = dict(_spelled(stored, file.text("tokenizer.ggml.model")))
    if not spelled:
        return
    wrong = [i for i, token in sorted(spelled.items()) if i >= len(file.tokens) or file.tokens[i] not in token]
    if wrong:
        first = wrong[:_SHOWN]
        shown = ", ".join(f"{i} is {_token(file, i)} instead of {visible(sorted(spelled[i])[0])!r}" for i in first)
        yield f"{len(wrong)} of {len(spelled)} tokens of its vocabulary are not the model's: {shown}"


def _token(file: GgufFile, i: int) -> str:
    return repr(visible(file.tokens[i][:40])) if i < len(file.tokens) else "missing"


def _spelled(stored: Mapping[str, Any], model: str) -> Iterator[tuple[int, set[str]]]:
    """Each id with the ways in which converters spell its token; nothing for a vocabulary of another kind."""
    kind, listed = (stored.get("model") or {}).get("type"), (stored.get("model") or {}).get("vocab") or {}
    tokens = {int(i): str(t) for t, i in listed.items()} if isinstance(listed, dict) else {i: p[0] for i, p in enumerate(listed)}
    if {"WordPiece": "bert", "BPE": "gpt2", "Unigram": "t5"}.get(str(kind)) != model:
        return
    special = {int(t["id"]) for t in stored.get("added_tokens") or ()}
    for i, token in tokens.items():
        if i in special:  # converters spell these as they are, or as other words
            continue
        yield i, {token.removeprefix("##") if token.startswith("##") else f"\u2581{token}"} if kind == "WordPiece" else {token}
