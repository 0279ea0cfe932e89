#!/usr/bin/env bash
# torch 2.13.0, Transformers 5.24.0: Gemma 3 with bidirectional attention (EmbeddingGemma) cannot be exported through TorchScript:
# "unordered_map::at". Nothing about the model needs another exporter: its windows ask Transformers for a mask by torch.vmap, which
# cannot be traced. The same mask by broadcasting (use_vmap=False) is equal, and exports with dynamic batch and length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" - "$work/model.onnx" <<'PY'
import sys
import warnings

import torch
import transformers
from transformers import Gemma3TextConfig, Gemma3TextModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

warnings.simplefilter("ignore")
print("torch", torch.__version__, "transformers", transformers.__version__)
config = Gemma3TextConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"], use_bidirectional_attention=True,
    attn_implementation="eager",
)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Gemma3TextModel(config).eval()

    def forward(self, ids, mask):
        return self.network(input_ids=ids, attention_mask=mask).last_hidden_state


def export():
    axes = {n: {0: "batch", 1: "length"} for n in ("ids", "mask", "out")}
    example = (torch.full((2, 8), 5), torch.tensor([[1] * 8, [1] * 5 + [0] * 3]))
    try:
        with torch.inference_mode():
            torch.onnx.export(
                encoder, example, sys.argv[1], input_names=["ids", "mask"], output_names=["out"], dynamic_axes=axes,
                opset_version=17, dynamo=False,
            )
    except Exception as e:
        return f"{type(e).__name__}: {str(e).splitlines()[0]}"
    return "exported"


torch.manual_seed(0)
encoder = Encoder()
ids, mask = torch.arange(40).reshape(1, 40), torch.tensor([[1] * 33 + [0] * 7])
with torch.inference_mode():
    by_vmap = encoder(ids, mask)
first = export()
print("mask by torch.vmap:  ", first)
ALL_MASK_ATTENTION_FUNCTIONS["eager"] = lambda *args, **said: eager_mask(*args, **{**said, "use_vmap": False})
with torch.inference_mode():
    by_broadcasting = encoder(ids, mask)
second = export()
print("mask by broadcasting:", second, "| equal vectors:", torch.equal(by_vmap, by_broadcasting))
assert "unordered_map::at" in first and second == "exported" and torch.equal(by_vmap, by_broadcasting), "the behavior changed"
PY
