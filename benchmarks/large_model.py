"""Memory and minutes of the commands on a model of XLM-RoBERTa's architecture with random weights. Run in the project's root.

usage: python benchmarks/large_model.py FOLDER [SIZE] [COMMAND,…] [--rev REV] [--beside] [--texts N]

SIZE is one of `small` (190 M parameters), `large` (560 M, XLM-RoBERTa-large's configuration; the default) and `huge` (1.2 B).
COMMAND are `int8`, `int8-weight`, … (quantize, the fp32 export included where FOLDER holds none yet), `golden`,
`gate-PRECISION` and `diagnose-PRECISION`; by default int8,golden,gate-int8,diagnose-int8. FOLDER keeps the model, the cache
and the results. With --rev the commands are those of another commit, with the packages of this environment. With --beside
ONNX files above 1/10 of the weights keep them beside them, as those above 512 MB always do. With --texts golden, gate and
diagnosis have so many texts of core instead of all, which takes less time and as much memory: a batch holds as many tokens.

Each command is a process of its own. Printed are its minutes, the largest resident memory of one of its processes (what
the kernel reports at its end) and of all of them at once (proportional set sizes, sampled), beside the fp32 weights.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

# layers, width, attention heads, width inside of a layer
SIZES = {"small": (6, 768, 12, 3072), "large": (24, 1024, 16, 4096), "huge": (44, 1280, 20, 5120)}
WORDS, POSITIONS = 250002, 514
TEXTS = 400  # of core that train the vocabulary


def tokenizer(folder: Path) -> None:
    """A small vocabulary of pieces, filled up to that of the model by words that no text has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from qguard.suites import load_suite

    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=4000, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(load_suite("core", {}).texts[:TEXTS], trainer)
    pieces = json.loads(made.to_str())["model"]["vocab"]
    made.model = models.Unigram([*map(tuple, pieces), *((f"<{i}>", -100.0) for i in range(len(pieces), WORDS))], 3)
    made.add_special_tokens([AddedToken(name) for name in special])
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS - 2, **names).save_pretrained(folder)


def write(folder: Path, size: str) -> None:
    """A model folder in sentence-transformers layout; the weights go to the file one after the other."""
    import torch
    from transformers import AutoModel, XLMRobertaConfig

    layers, wide, heads, inner = SIZES[size]
    config = XLMRobertaConfig(
        vocab_size=WORDS, hidden_size=wide, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
        max_position_embeddings=POSITIONS, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in AutoModel.from_config(config).named_parameters()}
    folder.mkdir(parents=True)
    config.architectures = ["XLMRobertaModel"]
    config.save_pretrained(folder)
    tokenizer(folder)
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = random.standard_normal(shape, np.float32)
            values *= 0.02 if len(shape) == 2 else 0.05
            if name.endswith("LayerNorm.weight"):
                values += 1
            f.write(values.data)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    kinds = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": POSITIONS - 2, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": wide, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def proportional(root: int) -> int:
    """Bytes of a process and all below it, each shared page counted once."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    todo, total = [root], 0
    while todo:
        process = todo.pop()
        todo += parents.get(process, ())
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def measured(command: list[str], folder: Path, root: Path) -> tuple[int, float, float, float]:
    """Exit status, seconds, and the two peaks of memory in bytes of a command run in ``folder``; its output goes to a log."""
    environment = os.environ | {"PYTHONPATH": str(root), "QGUARD_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    together, ended = 0, threading.Event()
    start = time.perf_counter()
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def sample() -> None:
        nonlocal together
        while not ended.wait(0.2):
            together = max(together, proportional(process.pid))

    watcher = threading.Thread(target=sample)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    watcher.join()
    return os.waitstatus_to_exitcode(status), time.perf_counter() - start, 1024 * usage.ru_maxrss, together


def write_texts(file: Path, count: int) -> None:
    """Write a suite of so many texts of core, its longest among them."""
    from qguard.suites import load_suite

    texts = load_suite("core", {}).texts
    chosen = [*sorted(texts, key=len)[-count // 4 :], *texts[:: len(texts) // count + 1]]
    lines = (json.dumps({"text": text}) + "\n" for text in dict.fromkeys(chosen) if text.strip())
    file.write_text("".join(lines), encoding="utf-8")


def main(folder: Path, size: str, names: list[str], root: Path, beside: bool, texts: int) -> None:
    """Run the commands in turn and print what each took."""
    if not (folder / "model").exists():
        write(folder / "model", size)
    settings = f'[tool.qguard.models]\nm = "{folder / "model"}"\n'
    suite = '[tool.qguard]\nsuites = ["core"]\n'
    if texts:
        write_texts(folder / "few.jsonl", texts)
        suite = '[tool.qguard]\nsuites = ["few"]\n[tool.qguard.suite.few]\npath = "few.jsonl"\n'
    (folder / "pyproject.toml").write_text(settings + suite)
    weights = (folder / "model" / "model.safetensors").stat().st_size
    print(f"{size}: {weights / 4e6:.0f} M parameters, {weights / 1e9:.2f} GB; {os.cpu_count()} cores", flush=True)
    for name in names:
        what, _, precision = name.partition("-") if name.split("-")[0] in ("gate", "diagnose") else (name, "", name)
        limit = f"from qguard.onnx import edit; edit.WHOLE = {weights // 10}; " if beside else ""
        qguard = [sys.executable, "-c", f"{limit}from qguard.cli import main; raise SystemExit(main())"]
        command = {
            "golden": [*qguard, "golden", "update", "--reason", "measured"],
            "gate": [
                sys.executable,
                "-m",
                "pytest",
                "--pyargs",
                "qguard.gate",
                "--precision",
                precision,
                "-p",
                "no:cacheprovider",
            ],
            "diagnose": [*qguard, "diagnose", "--precision", precision],
        }.get(what, [*qguard, "quantize", "--precision", precision, "--out", str(folder / "out" / precision), "--force"])
        status, seconds, one, together = measured(command, folder, root)
        print(
            f"{name:16} exit {status}, {seconds / 60:5.2f} min, "
            f"one process {one / 1e9:5.2f} GB = {one / weights:.2f} x the weights, "
            f"all {together / 1e9:5.2f} GB = {together / weights:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    given = sys.argv[1:]
    root = Path().resolve()
    split = "--beside" in given
    given = [a for a in given if a != "--beside"]
    few = 0
    if "--texts" in given:
        at = given.index("--texts")
        few = int(given.pop(at + 1))
        given.pop(at)
    where = Path(given[0]).resolve()
    if "--rev" in given:
        at = given.index("--rev")
        rev = given.pop(at + 1)
        given.pop(at)
        then = where / f"qguard-{rev}"
        if not then.exists():
            where.mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "clone", "-q", str(root), str(then)], check=True)
            subprocess.run(["git", "checkout", "-q", rev], cwd=then, check=True)
        root = then
    where.mkdir(parents=True, exist_ok=True)
    chosen = given[1] if len(given) > 1 else "large"
    commands = given[2].split(",") if len(given) > 2 else ["int8", "golden", "gate-int8", "diagnose-int8"]
    main(where, chosen, commands, root, split, few)
