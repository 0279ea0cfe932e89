"""GGUF files for llama.cpp, of networks of BERT's family, in llama.cpp's own mixtures of types; written with ``gguf``.

Networks are named as llama.cpp names their tensors, which ``gguf`` knows for Transformers' names. What llama.cpp would compute
otherwise than the model is refused in words.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.gguf import POOLING, pooled_by
from qguard.console.visible import visible
from qguard.errors import ArtifactProblem, ModelProblem
from qguard.files import read_json
from qguard.gguf.mixture import MIXTURES, POSITIONS, TOKENS, TYPES, Matrix, types_of
from qguard.gguf.read import read_gguf
from qguard.gguf.types import import_gguf, kind_of, quantized
from qguard.models.model import Model
from qguard.models.pipeline import first_position, read_optional, tokenizer_file
from qguard.models.tensors import Stored, stored_tensors

FILE = "model-{}.gguf"
# Transformers' name of a network: names of what its configuration says; all of these are ``bert`` in llama.cpp
_BERT = {
    "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads", "inner": "intermediate_size",
    "activation": "hidden_act",
}  # fmt: skip
NETWORKS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("bert", "camembert", "roberta", "xlm-roberta"), _BERT),
    "distilbert": {
        "width": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim", "activation": "activation",
    },
}  # fmt: skip
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh")  # llama.cpp has the form with tanh for all
_LEFT_OUT = ("position_ids", "token_type_ids", "pooler.dense.weight", "pooler.dense.bias")
# of heads that are not used for embeddings
_HEADS = ("cls.", "lm_head.", "vocab_", "classifier.", "qa_outputs.")
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED = 1, 2, 3, 4, 5


def fp32(model: Model, folder: Path) -> None:
    """Everything in float32."""
    write(model, folder, "F32")


def f16(model: Model, folder: Path) -> None:
    """Matrices in half precision."""
    write(model, folder, "F16")


def q8_0(model: Model, folder: Path) -> None:
    """Matrices in 8 bits, 32 values of a row with one scale."""
    write(model, folder, "Q8_0")


def q4_0(model: Model, folder: Path) -> None:
    """Matrices in 4 bits, 32 values of a row with one scale; word embeddings in 6 or 8."""
    write(model, folder, "Q4_0")


def q4_k_m(model: Model, folder: Path) -> None:
    """Matrices in 4 to 8 bits, as llama.cpp mixes them under this name."""
    write(model, folder, "Q4_K_M")


def write(model: Model, folder: Path, mixture: str) -> None:
    """Write one file into an artifact's folder.

    Args:
        model: The fp32 model.
        folder: The artifact's.
        mixture: A name in :data:`qguard.gguf.mixture.MIXTURES`.

    Raises:
        ModelProblem: for a model that llama.cpp would compute otherwise, or that is not written here.
        UsageProblem: where the package ``gguf`` is not installed.
    """
    gguf = import_gguf()
    network = Network.read(model)
    tensors = dict(network.tensors())
    types = types_of(mixture, (Matrix(name, t.shape) for name, t in tensors.items()), network.layers)
    writer = gguf.GGUFWriter(folder / FILE.format(mixture), "bert")
    try:
        network.describe(writer, MIXTURES[mixture][1], tensors)
        _vocabulary(model, folder / model.pipeline.transformer, writer, len(tensors[TOKENS]))
        _put(writer, tensors, types)
    finally:
        writer.close()


def write_unrounded(source: Path, model: Model, target: Path) -> None:
    """Write what a file says, with the model's own weights in float32: what is wrong with it is not how it rounds.

    Args:
        source: The file.
        model: The fp32 model.
        target: What is written.

    Raises:
        ArtifactProblem: where the file has other tensors than the model.
        ModelProblem: see :func:`write`.
    """
    gguf, file = import_gguf(), read_gguf(source)
    tensors = dict(Network.read(model).tensors())
    if other := sorted(n for n in {*tensors, *file.tensors} if n not in tensors or n not in file.tensors):
        raise ArtifactProblem(f"{source.name} holds other tensors than the model, such as {visible(other[0])}")
    if other := sorted(n for n, t in tensors.items() if t.shape != file.tensors[n].shape):
        raise ArtifactProblem(f"{source.name}: tensor {visible(other[0])} has another shape than the model's")
    writer = gguf.GGUFWriter(target, file.architecture)
    try:
        for key, value in file.metadata.items():
            kind, inner = (gguf.GGUFValueType(n) for n in file.order[key])
            if key not in ("general.architecture", "general.alignment"):
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                writer.add_key_value(key, plain, kind, inner if kind == gguf.GGUFValueType.ARRAY else None)
        _put(writer, tensors, dict.fromkeys(tensors, "F32"))
    finally:
        writer.close()


def vector_errors(source: Path, model: Model) -> Iterator[tuple[str, float]]:
    """Name of each bias and norm of a file, and how far its values lie from the model's, relative to their length.

    Nothing of a network that is not written here, whose names are not known.

    Args:
        source: The file.
        model: The fp32 model.
    """
    try:
        own = dict(Network.read(model).tensors())
    except ModelProblem:
        return
    for name, tensor in read_gguf(source).tensors.items():
        if len(tensor.shape) == 1 and name in own and own[name].shape == tensor.shape:
            want, found = np.asarray(own[name][:], np.float32), tensor.values()[0]
            length = float(np.linalg.norm(want))
            off = float(np.linalg.norm(found - want))
            yield name, off / length if length else float(off > 0)


def _put(writer: Any, tensors: Mapping[str, Stored], types: Mapping[str, str]) -> None:
    """Write the file of a writer that knows all but the tensors."""
    gguf = import_gguf()
    for name, stored in tensors.items():
        kind = kind_of(types[name])
        size = int(np.prod(stored.shape)) // kind.block * kind.size
        writer.add_tensor_info(name, stored.shape, np.dtype(np.float32), size, gguf.GGMLQuantizationType[kind.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, stored in tensors.items():  # one after the other: none stays in memory
        values = np.asarray(stored[:], np.float32)
        writer.write_tensor_data(quantized(types[name], values.reshape(-1, values.shape[-1])))


@dataclass(frozen=True)
class Network:
    """A network that is written.

    Attributes:
        model: The fp32 model.
        config: Its ``config.json``.
        names: Names in it, of :data:`NETWORKS`.
    """

    model: Model
    config: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def read(cls, model: Model) -> Network:
        """A model's network.

        Raises:
            ModelProblem: for one that is not written, in words.
        """
        if model.onnx is not None:
            raise _refused(model, f"comes as ONNX alone ({model.onnx.name}), and GGUF files are made of safetensors")
        pooled_by(model.pipeline, model.name)
        config = read_json(model.root / "config.json", ModelProblem)
        kind = str(config.get("model_type", ""))
        if kind not in NETWORKS:
            raise _refused(model, f"is of type {kind!r}; GGUF files are written of {', '.join(sorted(NETWORKS))}")
        found = cls(model, config, NETWORKS[kind])
        activation = str(config.get(found.names["activation"], "gelu"))
        if activation not in _GELU:
            raise _refused(model, f"has the activation {activation!r}, and llama.cpp computes this network with GELU alone")
        if (places := config.get("position_embedding_type") or "absolute") != "absolute":
            raise _refused(model, f"has {places} positions, and llama.cpp computes this network with absolute ones alone")
        if config.get("is_decoder") or config.get("add_cross_attention"):
            raise _refused(model, "is a decoder, and llama.cpp computes this network as an encoder alone")
        return found

    @property
    def layers(self) -> int:
        """Number of its layers."""
        return self.number("layers")

    def number(self, name: str) -> int:
        """A number of its configuration.

        Raises:
            ModelProblem: where it is none.
        """
        found = self.config.get(self.names[name])
        if type(found) is not int or found < 1:
            raise ModelProblem(f"{self.model.name}/config.json: expected {self.names[name]} to be a number, found {found!r}")
        return found

    @property
    def first(self) -> int:
        """Rows of the table of positions that no token has."""
        return first_position(self.config)

    def describe(self, writer: Any, file_type: int, tensors: Mapping[str, Stored]) -> None:
        """What a file says of its network.

        Args:
            writer: Of the file.
            file_type: The number of its mixture.
            tensors: By llama.cpp's names.
        """
        (pooling,) = self.model.pipeline.pooling
        writer.add_name(self.model.name)
        writer.add_file_type(file_type)
        writer.add_quantization_version(2)
        writer.add_block_count(self.layers)
        writer.add_context_length(len(tensors[POSITIONS]))
        writer.add_embedding_length(self.number("width"))
        writer.add_feed_forward_length(self.number("inner"))
        writer.add_head_count(self.number("heads"))
        writer.add_layer_norm_eps(float(self.config.get("layer_norm_eps", 1e-12)))
        writer.add_causal_attention(False)
        writer.add_pooling_type(import_gguf().PoolingType(POOLING[pooling]))
        writer.add_token_type_count(len(tensors[TYPES]) if TYPES in tensors else 1)  # of which the first is used

    def tensors(self) -> Iterator[tuple[str, Stored]]:
        """Every tensor of the model by llama.cpp's name, in the order of the model's files.

        Raises:
            ModelProblem: for one that llama.cpp has no place for.
        """
        gguf = import_gguf()
        known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, self.layers)
        for file in self.model.weight_files:
            for stored in stored_tensors(file):
                if stored.name.endswith(_LEFT_OUT):
                    continue
                own = _plain(stored.name)
                name = known.get_name(own, try_suffixes=(".weight", ".bias"))
                if name is None and own.startswith(_HEADS):
                    continue
                if name is None:
                    raise _refused(self.model, f"has a tensor {stored.name!r}, which llama.cpp's network has not")
                if name == POSITIONS and self.first:  # rows that no token has
                    stored = replace(stored, values=stored.values[self.first :])  # noqa: PLW2901
                yield name, stored


def _plain(name: str) -> str:
    """A tensor's name without that of the network, and in the spelling of newer releases of Transformers."""
    for prefix in ("bert.", "roberta.", "distilbert.", "camembert."):
        name = name.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def _refused(model: Model, what: str) -> ModelProblem:
    return ModelProblem(
        f"model {model.name!r} {what}. Judge it in another runtime, or give a file that another tool made: --artifact FILE"
    )


def _vocabulary(model: Model, root: Path, writer: Any, rows: int) -> None:
    """What a file says of its tokenizer.

    Args:
        model: The fp32 model, for messages.
        root: The folder whose ``tokenizer.json`` and ``tokenizer_config.json`` are read.
        writer: Of the file.
        rows: Of the table of words; tokens are added until there are so many.

    Raises:
        ModelProblem: for a tokenizer that llama.cpp has not.
    """
    stored = read_json(tokenizer_file(root), ModelProblem)
    kind = str((stored.get("model") or {}).get("type"))
    if kind not in _TOKENIZERS:
        raise _refused(model, f"has a tokenizer of type {kind}, and llama.cpp has {', '.join(_TOKENIZERS)}")
    told = {**read_optional(root / "special_tokens_map.json"), **read_optional(root / "tokenizer_config.json")}
    added = {int(t["id"]): t for t in stored.get("added_tokens") or ()}
    ids = {str(t["content"]): i for i, t in added.items()}
    tokens, types = _tokens(stored["model"], added, rows)
    _TOKENIZERS[kind](writer, stored, tokens, types)
    writer.add_token_types(types)
    for names, add in (
        (("cls_token", "bos_token"), writer.add_bos_token_id),
        (("eos_token", "sep_token") if kind != "WordPiece" else (), writer.add_eos_token_id),
        (("sep_token", "eos_token"), writer.add_sep_token_id),
        (("unk_token",), writer.add_unk_token_id),
        (("pad_token",), writer.add_pad_token_id),
        (("mask_token",), writer.add_mask_token_id),
    ):
        contents = (_content(told.get(name)) for name in names)
        if (found := next((ids[c] for c in contents if c in ids), None)) is not None:
            add(found)


def _content(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)


def _tokens(model: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], rows: int) -> tuple[list[str], list[int]]:
    """The vocabulary in its order and what kind each token is of, filled up to so many ``rows``."""
    listed = model["vocab"]
    names = {i: str(name) for name, i in listed.items()} if isinstance(listed, dict) else {i: p[0] for i, p in enumerate(listed)}
    names |= {i: str(t["content"]) for i, t in added.items()}
    types = dict.fromkeys(names, _NORMAL) | {i: _CONTROL if t.get("special") else _USER for i, t in added.items()}
    unknown = model.get("unk_id")
    if isinstance(unknown, int):
        types[unknown] = _UNKNOWN
    every = range(max(rows, max(names, default=0) + 1))
    return [names.get(i, f"[PAD{i}]") for i in every], [types.get(i, _UNUSED) for i in every]


def _word_pieces(writer: Any, stored: Mapping[str, Any], tokens: list[str], types: list[int]) -> None:
    """Parts that begin a word have a mark in front, where BERT marks those that go on."""
    mark = str(stored["model"].get("continuing_subword_prefix", "##"))
    pairs = zip(tokens, types, strict=True)
    spelled = [
        t if kind in (_CONTROL, _UNUSED) else t.removeprefix(mark) if t.startswith(mark) else f"\u2581{t}" for t, kind in pairs
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(spelled)
    normalizer = next((n for n in _normalizers(stored) if n.get("type") == "BertNormalizer"), {})
    lower = bool(normalizer.get("lowercase", any(n.get("type") == "Lowercase" for n in _normalizers(stored))))
    strip = normalizer.get("strip_accents")
    # gguf 0.19 has no methods for these
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lower)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", lower if strip is None else bool(strip))


def _pieces(writer: Any, stored: Mapping[str, Any], tokens: list[str], types: list[int]) -> None:
    """SentencePiece's unigrams, each with its score."""
    scores = [float(score) for _, score in stored["model"]["vocab"]]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([scores[i] if i < len(scores) else -10000.0 for i in range(len(types))])
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    compiled = next((n.get("precompiled_charsmap") for n in _normalizers(stored) if n.get("type") == "Precompiled"), None)
    if compiled:
        writer.add_precompiled_charsmap(b64decode(str(compiled)))


def _pairs(writer: Any, stored: Mapping[str, Any], tokens: list[str], _: list[int]) -> None:
    """Byte pairs as RoBERTa has them."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("roberta-bpe")
    writer.add_token_list(tokens)
    merges = stored["model"].get("merges") or ()
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _normalizers(stored: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    top = stored.get("normalizer") or {}
    return [n for n in (top, *top.get("normalizers", ())) if isinstance(n, dict)]


# types of the tokenizers library that llama.cpp has
_TOKENIZERS = {"WordPiece": _word_pieces, "Unigram": _pieces, "BPE": _pairs}
