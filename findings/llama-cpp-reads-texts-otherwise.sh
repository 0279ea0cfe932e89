#!/usr/bin/env bash
# llama.cpp v0.4.0, of node-llama-cpp 3.21.1: its tokenizer for BERT keeps the first letter of a Korean syllable alone, drops vowel
# signs such as Hindi's with the accents, and splits a word of more than 100 letters, which the tokenizers library takes for unknown.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q gguf==0.19.0 tokenizers==0.23.1
npm init -y > /dev/null
npm install --silent --ignore-scripts --omit=optional node-llama-cpp@3.21.1 @node-llama-cpp/linux-x64@3.21.1
venv/bin/python - <<'PY'
import json

import gguf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

# a syllable's letters, those of a Hindi word, and one Latin letter: each at the start of a word and in it
letters = [*"\u1112\u1161\u11ab", *"\u0938\u093f\u0930", "q"]
vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
texts = ["\ud55c", "\u0938\u093f\u0930", "q" * 101]
json.dump({t: tokenizer.encode(t).tokens for t in texts}, open("wanted.json", "w"))
writer = gguf.GGUFWriter("model.gguf", "bert")
writer.add_context_length(8)
writer.add_embedding_length(32)
writer.add_block_count(1)
writer.add_feed_forward_length(32)
writer.add_head_count(1)
writer.add_layer_norm_eps(1e-12)
writer.add_tokenizer_model("bert")
writer.add_token_type_count(1)
spelled = [*vocabulary[:5], *(f"\u2581{c}" for c in letters), *letters]
writer.add_token_list(spelled)
writer.add_token_types([3] * 5 + [1] * (len(spelled) - 5))
for add, i in ((writer.add_pad_token_id, 0), (writer.add_unk_token_id, 1), (writer.add_bos_token_id, 2), (writer.add_sep_token_id, 3)):
    add(i)
writer.add_mask_token_id(4)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
json.dump(vocabulary, open("vocabulary.json", "w"))
PY
cat > tokens.mjs <<'JS'
import fs from "node:fs";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
const read = (name) => JSON.parse(fs.readFileSync(name));
const [wanted, vocabulary] = [read("wanted.json"), read("vocabulary.json")];
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.fatal });
const model = await llama.loadModel({ modelPath: "model.gguf", vocabOnly: true });
const counts = [];
for (const [text, tokens] of Object.entries(wanted)) {
  const found = model.tokenize(text).map((id) => vocabulary[id]);
  const shown = (list) => (list.length > 8 ? `${list.length} tokens` : list.join(" "));
  console.log(`${text.slice(0, 8)}: tokenizers ${shown(tokens)}, llama.cpp ${shown(found)}`);
  counts.push(tokens.length, found.length);
}
await llama.dispose();
if (JSON.stringify(counts) !== "[3,1,3,2,1,101]") throw new Error(`the behavior changed: ${counts}`);
JS
node tokens.mjs
