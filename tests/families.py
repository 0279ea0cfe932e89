"""Tiny models of the architectures that people deploy: their Transformers configuration, random weights, a small vocabulary.

Nothing here is trained but the vocabularies, on the texts of ``core``. What such a model computes means nothing, so it shows
whether a file computes the same, and not whether the answers are good.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

WIDE, HEADS, LAYERS, VOCABULARY, POSITIONS = 64, 4, 2, 900, 130


@cache
def _texts() -> tuple[str, ...]:
    from qguard.suites import load_suite

    return load_suite("core", {}).texts


@cache
def _trained(kind: str) -> str:
    """A tokenizer as JSON, trained once for all families: to train one takes longer than all else about a tiny model."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "words":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer: Any = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special)
    elif kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(_texts(), trainer)
    return str(made.to_str())


def wordpiece() -> Any:
    """Words and their parts, outer whitespace dropped: BERT's."""
    return _framed("words", "[CLS]", "[SEP]")


def _bytes(first: str = "<s>", last: str = "</s>") -> Any:
    """Bytes in pairs, whitespace kept: RoBERTa's."""
    return _framed("bytes", first, last)


def _pieces(first: str = "<s>", last: str = "</s>") -> Any:
    """Pieces with whitespace as a letter of its own: SentencePiece's, as of XLM-RoBERTa."""
    return _framed("pieces", first, last)


def _framed(kind: str, first: str, last: str) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_str(_trained(kind))
    names = [n for n in (first, last) if n]
    if names:
        single = " ".join([*([first] if first else []), "$A", *([last] if last else [])])
        ids = [(n, tokenizer.token_to_id(n)) for n in names]
        tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


def _common(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDE, "max_position_embeddings": POSITIONS, "initializer_range": 0.05, **more,
    }  # fmt: skip


_SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_GROUPED = {**_common(num_key_value_heads=2, head_dim=16), **_SPECIAL}


class Family(NamedTuple):
    """How a tiny model of an architecture is made.

    Attributes:
        config: Its configuration's class in Transformers.
        settings: Of that configuration.
        tokenizer: Trains its tokenizer.
        pooling: How its vectors are pooled.
        dense: Of each Dense module after the pooling the width that comes out; neither bias nor activation.
        network: Its class, where ``AutoModel`` takes another.
    """

    config: str
    settings: dict[str, Any]
    tokenizer: Callable[[], Any]
    pooling: str
    dense: tuple[int, ...] = ()
    network: str = "AutoModel"


_MADE: dict[str, tuple[Any, ...]] = {
    "bert": ("BertConfig", _common(), wordpiece, "mean"),
    "roberta": ("RobertaConfig", _common(type_vocab_size=1, **_SPECIAL), _bytes, "mean"),
    "xlm-roberta": ("XLMRobertaConfig", _common(type_vocab_size=1, **_SPECIAL), _pieces, "mean"),
    "camembert": ("CamembertConfig", _common(type_vocab_size=1, **_SPECIAL), _pieces, "mean"),
    "mpnet": ("MPNetConfig", _common(**_SPECIAL), _pieces, "mean"),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": WIDE, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 4 * WIDE,
         "max_position_embeddings": POSITIONS, "initializer_range": 0.05},
        wordpiece, "cls",
    ),
    "albert": ("AlbertConfig", _common(embedding_size=32, **_SPECIAL), _pieces, "mean"),
    "deberta-v2": (
        "DebertaV2Config",
        _common(relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, position_buckets=16,
                norm_rel_ebd="layer_norm", share_att_key=True, pad_token_id=1),
        _pieces, "mean",
    ),
    "mobilebert": (
        "MobileBertConfig",
        _common(embedding_size=32, intra_bottleneck_size=32, intermediate_size=64, num_feedforward_networks=2),
        wordpiece, "mean",
    ),
    "electra": ("ElectraConfig", _common(embedding_size=32), wordpiece, "mean"),
    "modernbert": (
        "ModernBertConfig",
        _common(global_attn_every_n_layers=2, local_attention=16, cls_token_id=0, sep_token_id=2, **_SPECIAL), _bytes, "mean",
    ),
    "nomic": ("NomicBertConfig", _common(), wordpiece, "mean"),
    "gte": ("GteConfig", _common(type_vocab_size=1, **_SPECIAL), _pieces, "cls"),
    "jina-v3": ("JinaEmbeddingsV3Config", _common(type_vocab_size=1, **_SPECIAL), _pieces, "mean"),
    "eurobert": ("EuroBertConfig", _common(num_key_value_heads=2, **_SPECIAL), lambda: _bytes("<s>", ""), "mean"),
    "t5": (
        "T5Config",
        {"vocab_size": VOCABULARY, "d_model": WIDE, "d_kv": 16, "d_ff": 4 * WIDE, "num_layers": LAYERS, "num_heads": HEADS,
         "relative_attention_num_buckets": 16, "relative_attention_max_distance": 64, "pad_token_id": 1, "eos_token_id": 2},
        lambda: _pieces("", "</s>"), "mean", (WIDE,), "T5EncoderModel",
    ),
    "t5-gated": (  # T5 1.1, and mT5
        "MT5Config",
        {"vocab_size": VOCABULARY, "d_model": WIDE, "d_kv": 16, "d_ff": 2 * WIDE, "num_layers": LAYERS, "num_heads": HEADS,
         "feed_forward_proj": "gated-gelu", "pad_token_id": 1, "eos_token_id": 2},
        lambda: _pieces("", "</s>"), "mean", (), "MT5EncoderModel",
    ),
    "clip-text": ("CLIPTextConfig", _common(**_SPECIAL), _bytes, "lasttoken", (48,)),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": 40}, _pieces, "lasttoken"),
    "qwen3": ("Qwen3Config", _GROUPED, lambda: _bytes("", "</s>"), "lasttoken"),
    "llama": ("LlamaConfig", _GROUPED, lambda: _pieces("<s>", ""), "mean"),
    "gemma3": (
        "Gemma3TextConfig",
        {**_GROUPED, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
         "use_bidirectional_attention": True},
        lambda: _pieces("<s>", "</s>"), "mean", (4 * WIDE, WIDE),
    ),
}  # fmt: skip
FAMILIES = {name: Family(*made) for name, made in _MADE.items()}


def write(family: str, folder: Path, *, seed: int = 0, normalize: bool = True, **config: Any) -> Path:
    """A model folder in sentence-transformers layout.

    Args:
        family: A name in :data:`FAMILIES`.
        folder: Where to.
        seed: Of the weights.
        normalize: Whether the embedding is scaled to unit length.
        config: Over the family's settings.
    """
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModel, PreTrainedTokenizerFast

    chosen = FAMILIES[family]
    made = chosen.tokenizer()
    torch.manual_seed(seed)
    settings = getattr(transformers, chosen.config)(**{**chosen.settings, **config})
    own = chosen.network != "AutoModel"
    network = (getattr(transformers, chosen.network)(settings) if own else AutoModel.from_config(settings)).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.dim() == 1:  # as of trained models: neither biases of zero nor gains of one
                tensor.add_(0.05 * torch.randn_like(tensor))
    network.save_pretrained(folder)
    bert = made.token_to_id("[PAD]") is not None
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if bert else ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    keys = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(keys, names, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS - 2, **special).save_pretrained(folder)
    kinds = ["Transformer", "Pooling", *(["Dense"] * len(chosen.dense)), *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": WIDE, "pooling_mode": chosen.pooling})
    )
    width = WIDE
    for i, wider in enumerate(chosen.dense, 2):
        head = folder / f"{i}_Dense"
        head.mkdir(exist_ok=True)
        declared = {"in_features": width, "out_features": wider, "bias": False}
        activation = "torch.nn.modules.linear.Identity"
        (head / "config.json").write_text(json.dumps({**declared, "activation_function": activation}))
        save_file({"linear.weight": torch.randn(wider, width) / width**0.5}, head / "model.safetensors")
        width = wider
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": POSITIONS - 2}))
    return folder
