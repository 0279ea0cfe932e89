#!/usr/bin/env bash
# sentence-transformers 5.7.0, optimum-onnx 0.1.0, Transformers 4.57.6: a T5 encoder (as of sentence-t5) is exported to ONNX as the whole
# T5Model. Its only output, last_hidden_state, is the decoder's, whose weights no encoder has, so they are random. The exported
# model cannot encode in sentence-transformers either: nothing feeds decoder_input_ids.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q sentence-transformers==5.7.0 optimum-onnx==0.1.0 transformers==4.57.6 torch==2.13.0 onnx==1.23.2 \
    onnxruntime==1.32.0 tokenizers==0.22.2 numpy==2.4.6
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - "$work" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import onnxruntime as ort
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

transformers.logging.set_verbosity_error()
print(*(f"{name} {version(name)}" for name in ("sentence-transformers", "optimum-onnx", "transformers", "torch", "onnxruntime")))
folder = f"{sys.argv[1]}/model"
tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64,
    model_input_names=["input_ids", "attention_mask"],
).save_pretrained(folder)
torch.manual_seed(0)
T5EncoderModel(T5Config(vocab_size=5, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)).eval().save_pretrained(folder)
SentenceTransformer(modules=[Transformer(folder), Pooling(32)], device="cpu").save_pretrained(f"{folder}/st")
print("torch encodes:", SentenceTransformer(f"{folder}/st", device="cpu").encode(["a b", "b"]).shape)

exported = SentenceTransformer(f"{folder}/st", device="cpu", backend="onnx", model_kwargs={"export": True})
exported.save_pretrained(f"{folder}/onnx")
session = ort.InferenceSession(f"{folder}/onnx/onnx/model.onnx", providers=["CPUExecutionProvider"])
inputs, outputs = ([port.name for port in side] for side in (session.get_inputs(), session.get_outputs()))
ids = np.array([[3, 4, 4, 1]])
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
shapes = [session.run(outputs, feeds | {"decoder_input_ids": np.zeros((1, n), np.int64)})[0].shape for n in (1, 2)]
print("ONNX takes", inputs, "and gives", outputs, "of", shapes, "for 4 tokens and 1 or 2 of the decoder's")
try:
    said = str(exported.encode(["a b", "b"]).shape)
except Exception as e:
    said = f"{type(e).__name__}: {e}"
print("the exported model encodes:", said)
assert "decoder_input_ids" in inputs and outputs == ["last_hidden_state"], "the behavior changed"
assert shapes == [(1, 1, 32), (1, 2, 32)] and "decoder_input_ids" in said, "the behavior changed"
PY
