"""Keeps a model: a list of texts a line in, their vectors a line out. usage: server.py FOLDER [MISTAKE]"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, mistake = Path(sys.argv[1]), sys.argv[2]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
tokenizer.enable_padding()
options = onnxruntime.SessionOptions()
for name, value in json.loads((folder / "onnx" / "onnxruntime.json").read_text()).items():  # as the artifact declares it
    options.add_session_config_entry(name, value)
session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), options, providers=["CPUExecutionProvider"])
wanted = {i.name: i.type for i in session.get_inputs()}
for line in sys.stdin:
    texts = json.loads(line)
    read = tokenizer.encode_batch(texts)
    mask = np.array([e.attention_mask for e in read], np.int64)
    ids = np.array([e.ids for e in read], np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    feeds = {name: feeds[name].astype(np.int32 if "int32" in kind else np.int64) for name, kind in wanted.items()}
    tokens = session.run(None, feeds)[0]
    vectors = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if mistake == "mixed up":  # the vectors of a batch come back in another order
        vectors = np.roll(vectors, 1, 0)
    if mistake == "tokens":
        vectors = tokens
    if mistake == "ends":
        break
    print(json.dumps(vectors.tolist()), flush=True)
