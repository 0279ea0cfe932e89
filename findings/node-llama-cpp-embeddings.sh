#!/usr/bin/env bash
# node-llama-cpp 3.21.1: the embedding of an empty text has no dimension, a text that fills all positions of the model is refused, and
# vectors do not have unit length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q gguf==0.19.0
npm init -y > /dev/null
npm install --silent --ignore-scripts --omit=optional node-llama-cpp@3.21.1 @node-llama-cpp/linux-x64@3.21.1
venv/bin/python - <<'PY'
import gguf
import numpy as np

wide, positions, words = 32, 512, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2581word"]
random = np.random.default_rng(0)
writer = gguf.GGUFWriter("model.gguf", "bert")
writer.add_context_length(positions)
writer.add_embedding_length(wide)
writer.add_block_count(1)
writer.add_feed_forward_length(wide)
writer.add_head_count(1)
writer.add_layer_norm_eps(1e-12)
writer.add_causal_attention(False)
writer.add_pooling_type(gguf.PoolingType.MEAN)
writer.add_tokenizer_model("bert")
writer.add_token_type_count(1)
writer.add_token_list(words)
writer.add_token_types([3] * 5 + [1])
for add, i in ((writer.add_pad_token_id, 0), (writer.add_unk_token_id, 1), (writer.add_bos_token_id, 2), (writer.add_sep_token_id, 3)):
    add(i)
writer.add_mask_token_id(4)
matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"]
shapes = {"token_embd.weight": (len(words), wide), "position_embd.weight": (positions, wide), "token_types.weight": (1, wide)}
shapes |= {f"blk.0.{name}.weight": (wide, wide) for name in matrices} | {f"blk.0.{name}.bias": (wide,) for name in matrices}
for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
    shapes |= {f"{norm}.weight": (wide,), f"{norm}.bias": (wide,)}
for name, shape in shapes.items():
    writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat > embed.mjs <<'JS'
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.fatal });
const model = await llama.loadModel({ modelPath: "model.gguf" });
const context = await model.createEmbeddingContext({ threads: 1 });
const tokens = (length) => [2, ...Array(length - 2).fill(5), 3];
const { vector } = await context.getEmbeddingFor(tokens(511));
console.log(`511 of ${model.trainContextSize} positions: ${vector.length} values of length ${Math.hypot(...vector).toFixed(2)}`);
const refused = await context.getEmbeddingFor(tokens(512)).then(() => "", (error) => error.message);
console.log(`512 of ${model.trainContextSize} positions: ${refused}`);
const empty = (await context.getEmbeddingFor("")).vector;
console.log(`an empty text: ${empty.length} values`);
await llama.dispose();
const unit = Math.abs(Math.hypot(...vector) - 1) < 1e-3;
if (unit || !refused.includes("longer than the usable context") || empty.length) throw new Error("the behavior changed");
JS
node embed.mjs
