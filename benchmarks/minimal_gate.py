"""The least a hand-written check does: load the artifact, tokenize, encode once in length-sorted batches.

usage: python benchmarks/minimal_gate.py MODEL.onnx TOKENIZER.json TEXTS.json MAX_LENGTH
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

model, vocabulary, texts, length = sys.argv[1:]
tokenizer = Tokenizer.from_file(vocabulary)
tokenizer.enable_truncation(int(length))
tokenizer.no_padding()
with Path(texts).open(encoding="utf-8") as f:
    ids = [e.ids for e in tokenizer.encode_batch(json.load(f))]
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
out = np.zeros((len(ids), 384), np.float32)
start = 0
while start < len(order):
    width = len(ids[order[start]])
    rows = order[start : start + max(1, 2048 // width)]
    start += len(rows)
    tokens, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for k, r in enumerate(rows):
        tokens[k, : len(ids[r])], mask[k, : len(ids[r])] = ids[r], 1
    feeds = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
    hidden = session.run(None, feeds)[0]
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    out[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
print(out.shape, float(out.sum()))
