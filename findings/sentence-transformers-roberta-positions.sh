#!/usr/bin/env bash
# sentence-transformers 6.2.0, Transformers 5.24.0: RoBERTa and its kin count positions from the padding token's id + 1, so a table of
# 18 rows has room for 16 tokens. Without a length in the tokenizer's files, sentence-transformers takes all 18 rows as
# max_seq_length, cuts texts there, and a text of 17 tokens fails. Of BERT, which counts from 0, every row is a position.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q sentence-transformers==6.2.0 transformers==5.24.0 torch==2.13.0 tokenizers==0.23.3 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'PY'
import sys

import sentence_transformers
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

transformers.utils.logging.disable_progress_bar()
print("sentence-transformers", sentence_transformers.__version__, "transformers", transformers.__version__)
ROWS, PAD = 18, 1
tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": PAD, "<unk>": 2, "word": 3}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
common = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "pad_token_id": PAD}
common |= {"vocab_size": 4, "max_position_embeddings": ROWS}
found = {}
for name, network in (("bert", BertModel(BertConfig(**common))), ("roberta", RobertaModel(RobertaConfig(**common)))):
    folder = f"{sys.argv[1]}/{name}"
    network.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    model = SentenceTransformer(modules=[Transformer(folder), Pooling(8)], device="cpu")
    found[name] = {"max_seq_length": model.max_seq_length}
    for tokens in (16, 17, 100):
        try:
            found[name][tokens] = model.encode("word " * tokens).shape
        except Exception as e:
            found[name][tokens] = f"{type(e).__name__}: {e}"
    print(name, found[name])
assert found["bert"] == {"max_seq_length": ROWS, 16: (8,), 17: (8,), 100: (8,)}, "the behavior changed"
assert found["roberta"]["max_seq_length"] == ROWS and found["roberta"][16] == (8,), "the behavior changed"
assert all(isinstance(found["roberta"][tokens], str) for tokens in (17, 100)), "the behavior changed"
PY
