"""Tiny models of each kind, saved by sentence-transformers itself: random weights, a small vocabulary.

A cross-encoder scores pairs, a sparse encoder weighs the words of its vocabulary, a multi-vector one has a vector for each token.
Nothing here is trained, so the numbers mean nothing; ``benchmarks/train_kinds.py`` makes models whose numbers do.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch

WIDE, LAYERS, POSITIONS, PROJECTED, QUERY_LENGTH, DOCUMENT_LENGTH, CHOSEN = 32, 2, 64, 16, 16, 24, 0.97
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]")
QUERIES = ("when does the ferry leave", "how long must rye dough rest", "who sends the minutes")
TEXTS = (
    "The ferry to the island leaves at noon.",
    "Rye dough rests for eight hours, then it is baked!",
    "Minutes of a meeting are sent within three days; the board reads them.",
    "Soak beans overnight (in cold water), and cook them for an hour.",
)
OWN_SUITE = """[tool.qguard]
suites = ["own"]
[tool.qguard.suite.own]
path = "own.jsonl"
[tool.qguard.robustness]
mode = "off"
"""
MARKS = {"query": "[unused0] ", "document": "[unused1] "}


def write_suite(file: Path, pairs: bool = False) -> None:
    """A suite of 24 short texts that differ, or of pairs of them.

    Args:
        file: In JSON lines.
        pairs: Of 24 texts with one query.
    """
    words = list(dict.fromkeys(" ".join(TEXTS).split()))
    texts = [" ".join(words[(7 * i + k * (i % 5 + 1)) % len(words)] for k in range(3 + i % 4)) for i in range(24)]
    rows = [{"text_a": QUERIES[0], "text_b": t, "score": i % 2} if pairs else {"text": t} for i, t in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny_dense(folder: Path, exact: bool = False) -> Path:
    """One vector to a text, the mean of its tokens, of unit length; a prompt for queries and one for documents.

    Args:
        folder: Is made, and filled.
        exact: Its tokens are bytes, so that it tells whitespace and the case of letters; else words in lower case.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertModel

    _network(folder, BertModel, _of_bytes(folder) if exact else None)
    modules = [Transformer(str(folder)), Pooling(WIDE), Normalize()]
    prompts = {"query": "when: ", "document": "text: "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder), create_model_card=False)
    return folder


def tiny_cross_encoder(folder: Path, labels: int = 1) -> Path:
    """Scores of pairs: one, through a sigmoid, or several as they are.

    Args:
        folder: Is made, and filled.
        labels: How many scores a pair has.
    """
    from sentence_transformers import CrossEncoder
    from transformers import BertForSequenceClassification

    names = {i: f"label {i}" for i in range(labels)}
    _network(folder, BertForSequenceClassification, num_labels=labels, id2label=names, label2id={n: i for i, n in names.items()})
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def tiny_sparse(folder: Path) -> Path:
    """SPLADE: of most words of the vocabulary the weight is 0, as the decoder's biases are low."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import BertForMaskedLM

    _network(folder, BertForMaskedLM)
    network = Transformer(str(folder), transformer_task="fill-mask")
    with torch.no_grad():
        found = network.model(**network.tokenizer(list(TEXTS), padding=True, return_tensors="pt")).logits
        network.model.cls.predictions.bias -= found.quantile(CHOSEN)
    pooling = SpladePooling(embedding_dimension=network.model.config.vocab_size)
    SparseEncoder(modules=[network, pooling], device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def tiny_multi_vector(folder: Path) -> Path:
    """ColBERT: a mark before each text, queries filled up with [MASK] that no token attends to, documents without punctuation."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from transformers import BertModel

    _network(folder, BertModel)
    expansion = {"strategy": "fixed", "attend": False, "length": QUERY_LENGTH}
    network = Transformer(str(folder), document_length=DOCUMENT_LENGTH, query_expansion=expansion)
    network.tokenizer.add_special_tokens({"additional_special_tokens": [m.strip() for m in MARKS.values()]})
    token = "token_embeddings"
    dense = Dense(WIDE, PROJECTED, bias=False, activation_function=None, module_input_name=token)
    modules = [network, dense, MultiVectorMask(list(string.punctuation)), Normalize(token)]
    MultiVectorEncoder(modules=modules, prompts=MARKS, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def _of_bytes(folder: Path) -> int:
    """A tokenizer of bytes, and how many tokens it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    made = Tokenizer(models.BPE(ids, [], unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS, **names).save_pretrained(folder)
    return len(ids)


def _network(folder: Path, network: Any, tokens: int | None = None, **config: Any) -> None:
    """A BERT and its tokenizer, unless one of so many tokens is there: the words of the texts, and letters for all others."""
    from transformers import BertConfig, BertTokenizer

    spaced = " ".join((*QUERIES, *TEXTS)).lower().translate({ord(p): " " for p in string.punctuation})
    letters = string.ascii_lowercase + string.digits
    words = [*SPECIAL, *string.punctuation, *letters, *(f"##{c}" for c in letters), *sorted(set(spaced.split()))]
    ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
    if tokens is None:
        BertTokenizer(ids, model_max_length=POSITIONS).save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=tokens or len(ids), hidden_size=WIDE, num_hidden_layers=LAYERS, num_attention_heads=2,
        intermediate_size=2 * WIDE, max_position_embeddings=POSITIONS, initializer_range=0.2, **config,
    )  # fmt: skip
    network(settings).eval().save_pretrained(folder)
