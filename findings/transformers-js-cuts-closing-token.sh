#!/usr/bin/env bash
# Transformers.js 4.3.1: a text that is too long loses its closing token with the rest. Python's tokenizers cut the text and keep
# the token, so the vectors of long texts are others than those of the same model in Python.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q tokenizers==0.23.1
npm init -y > /dev/null
npm install --silent --ignore-scripts @huggingface/transformers@4.3.1
mkdir model
venv/bin/python - <<'PY'
import json

from tokenizers import Tokenizer, models, pre_tokenizers, processors

tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "word": 4}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
tokenizer.save("model/tokenizer.json")
json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8}, open("model/tokenizer_config.json", "w"))
tokenizer.enable_truncation(8)
print("Python:         ", tokenizer.encode("word " * 20).ids)
assert tokenizer.encode("word " * 20).ids == [2, 4, 4, 4, 4, 4, 4, 3]
PY
cat > cut.mjs <<'JS'
import { AutoTokenizer, env } from "@huggingface/transformers";
env.allowRemoteModels = false;
env.localModelPath = process.cwd() + "/";
const tokenizer = await AutoTokenizer.from_pretrained("model");
const { input_ids } = tokenizer("word ".repeat(20), { truncation: true, return_tensor: false });
console.log("Transformers.js:", JSON.stringify(input_ids));
if (JSON.stringify(input_ids) !== "[2,4,4,4,4,4,4,4]") throw new Error("the behavior changed");
JS
node cut.mjs
