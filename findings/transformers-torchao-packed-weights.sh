#!/usr/bin/env bash
# torch 2.13.0, Transformers 5.24.0, torchao 0.18.0: from_pretrained with a quantization config loads only the first part of a weight
# that the checkpoint stores packed. NomicBERT's Wqkv becomes q_proj alone; keys and values stay random, and the only sign is a
# list of missing keys. The same folder without the config loads whole, and torchao's quantize_ then keeps the vectors.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 torchao==0.18.0 numpy==2.4.6
"$work/venv/bin/python" - "$work/model" <<'PY'
import sys
import warnings

import torch
import torchao
import transformers
from safetensors import safe_open
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import AutoModel, NomicBertConfig, NomicBertModel, TorchAoConfig

warnings.simplefilter("ignore")
print("torch", torch.__version__, "transformers", transformers.__version__, "torchao", torchao.__version__)
folder = sys.argv[1]
torch.manual_seed(0)
config = NomicBertConfig(
    vocab_size=50, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
    initializer_range=0.2,
)
NomicBertModel(config).eval().save_pretrained(folder)
with safe_open(f"{folder}/model.safetensors", "pt") as f:
    print("stored packed:", [name for name in f.keys() if "qkv" in name.lower()])


def opened(**options):
    network, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    return network.eval(), sorted(name for name in info["missing_keys"] if "pool" not in name)


def vectors(network):
    with torch.inference_mode():
        return network(input_ids=torch.arange(20).reshape(1, 20)).last_hidden_state.flatten()


whole, nothing = opened()
want = vectors(whole)
loaded, missing = opened(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
quantize_(whole, Int8WeightOnlyConfig())
by_config, by_hand = (float(torch.cosine_similarity(want, vectors(n), dim=0)) for n in (loaded, whole))
print("missing without a config:", nothing, "| with it:", missing)
print(f"cosine to float32: quantized while loading {by_config:.3f}, loaded and then quantized {by_hand:.5f}")
assert not nothing and missing and by_config < 0.9 and by_hand > 0.999, "the behavior changed"
PY
