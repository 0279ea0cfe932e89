"""Does ``qguard diagnose`` name the layer that was damaged, and the stage? And what does it make of per-tensor int8?

usage: python benchmarks/diagnose.py [layers|parts|stages|per-tensor]    all without an argument

Layers: each layer of MiniLM's int8 artifact that has parameters is damaged in turn as a whole, and the diagnosis (16 texts of
core) must rank it first. Parts: the same for a third of its channels, and for one head of each projection. Stages: pooling,
mask, normalization and tokenizer faults. Per-tensor: ONNX Runtime's dynamic quantization of the fp32 export with one scale a
tensor; what is excluded, what it costs, what stands in the way.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qguard.artifacts.artifact import Artifact
from qguard.config import load_config
from qguard.diagnosis.activations import layer_errors
from qguard.diagnosis.examination import Examination
from qguard.diagnosis.report import to_json
from qguard.diagnosis.sites import Net, align
from qguard.diagnosis.verdict import ranked
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize

TEXTS = 16
WHOLE = ("scale x 1.5", "shifted")
HEADS, WIDTH, EVERY = 12, 384, slice(None)
config = load_config(Path())
harness = Session(config)
precision = parse_precision("int8")
target = Target(precision, "minilm", "core")


def change(model: Any, name: str, to: Callable[[Any], Any]) -> None:
    """Rewrite a stored tensor."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(to(value.copy()).astype(value.dtype), name))


def scaled(name: str, factor: float, columns: slice, model: Any) -> None:
    """Multiply columns of a stored tensor."""

    def to(value: Any) -> Any:
        value[..., columns] *= factor
        return value

    change(model, name, to)


def shifted(name: str, columns: slice, model: Any) -> None:
    """Add two standard deviations to a part of a vector."""

    def to(value: Any) -> Any:
        value[columns] += 2 * value.std()
        return value

    change(model, name, to)


def faults() -> list[tuple[str, str, Callable[[Any], None]]]:
    """(damaged layer, what was done, a function that does it to a model)."""
    third, found = slice(0, WIDTH // 3), []

    def add(layer: str, what: str, damage: Callable[..., None], *args: Any) -> None:
        found.append((layer, what, partial(damage, *args)))

    tables = {"word": "weight_scale", "position": "weight", "token_type": "weight"}
    for name, tensor in tables.items():
        layer, stored = f"embeddings/{name}_embeddings", f"network.embeddings.{name}_embeddings.{tensor}"
        add(layer, "scale x 1.5", scaled, stored, 1.5, EVERY)
        # words have three scales a row, one for each third of it
        add(layer, "a third of it x 1.5", scaled, stored, 1.5, slice(0, 1) if name == "word" else third)
    norms = ["embeddings/LayerNorm"]
    for i in range(6):
        home = f"encoder/layer.{i}"
        for part in ("query", "key", "value"):
            layer, size = f"{home}/attention/self/{part}", WIDTH // HEADS
            scale = f"/network/{layer}/MatMul/weight_scale"
            add(layer, "scale x 1.5", scaled, scale, 1.5, EVERY)
            add(layer, "a third of it x 1.5", scaled, scale, 1.5, third)
            add(layer, "head 5 zeroed", scaled, scale, 0.0, slice(5 * size, 6 * size))
        for part in ("attention/output/dense", "intermediate/dense", "output/dense"):
            layer, scale = f"{home}/{part}", f"/network/{home}/{part}/MatMul/weight_scale"
            bias = f"/network/{layer}/MatMul/bias"  # added by the product itself
            add(layer, "scale x 1.5", scaled, scale, 1.5, EVERY)
            add(layer, "a third of it x 1.5", scaled, scale, 1.5, third)
            add(layer, "shifted", shifted, bias, EVERY)
            add(layer, "a third of it shifted", shifted, bias, third)
        norms += [f"{home}/attention/output/LayerNorm", f"{home}/output/LayerNorm"]
    for layer in norms:
        add(layer, "scale x 1.5", scaled, f"network.{layer.replace('/', '.')}.weight", 1.5, EVERY)
        add(layer, "a third of it x 1.5", scaled, f"network.{layer.replace('/', '.')}.weight", 1.5, third)
    return found


def layers(whole: bool = True) -> None:
    """Every layer damaged once as a whole, or in every way in part."""
    examination = Examination(harness, target, TEXTS)
    fp32, _, _ = examination.nets
    ids = [examination.ids[i] for i in np.linspace(0, len(examination.ids) - 1, TEXTS).astype(int)]
    right, wrong, of, tops = Counter(), [], Counter(), {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        for layer, what, damage in (f for f in faults() if (f[1] in WHOLE) == whole):
            model = onnx.load(str(examination.file))
            damage(model)
            file = Path(work, "model.onnx")
            onnx.save(model, str(file))
            candidate = Net.read(file)
            found = layer_errors(fp32, candidate, align(fp32, candidate), ids, examination.pad_id)
            first = ranked(found, precision.recipe)[0]
            of[what] += 1
            right[what] += first.layer == layer
            tops.setdefault(what, []).append(first.part)
            print(f"{layer}, {what}: {first.layer} {first.own:.4f} {first.part}", file=sys.stderr, flush=True)
            if first.layer != layer:
                own = next(x.own for x in found if x.layer == layer)
                wrong.append(f"{layer}, {what}: named {first.layer} ({first.own:.4f}; its own {own:.4f})")
    for what, n in of.items():
        parts = Counter(p for p in tops[what] if p).most_common(2)
        print(f"{what:<24} {right[what]:>4} of {n:<4} {'; '.join(f'{p} ({k} x)' for p, k in parts)}")
    total = sum(of.values())
    print(f"{'all':<24} {sum(right.values()):>4} of {total}: {sum(right.values()) / total:.1%}, {time.monotonic() - start:.0f} s")
    for line in wrong:
        print("  " + line)
    assert sum(right.values()) >= 0.95 * total


def folder_of(work: Path) -> Path:
    """A copy of the int8 artifact, without its provenance: it is about to differ from it."""
    artifact: Artifact = harness.artifact(precision, "minilm")
    copy = Path(tempfile.mkdtemp(dir=work)) / "artifact"
    shutil.copytree(artifact.folder, copy)
    (copy / "qguard.json").unlink()
    return copy


def edit(file: Path, change) -> None:
    """Rewrite a JSON file."""
    value = json.loads(file.read_text())
    file.write_text(json.dumps(change(value)))


def masked_out(folder: Path) -> None:
    """Attention sees padding."""
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(str(file))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int64), "mask/zero"))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[i] = "mask/all"
    model.graph.node.insert(0, helper.make_node("Cast", ["mask/true"], ["mask/all"], to=7))
    model.graph.node.insert(0, helper.make_node("GreaterOrEqual", ["attention_mask", "mask/zero"], ["mask/true"]))
    onnx.save(model, str(file))


def pooled(folder: Path, *, masked: bool, first: bool = False, normalised: bool = True) -> None:
    """The file pools by itself."""
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(str(file))
    g = model.graph
    g.initializer.extend([
        numpy_helper.from_array(np.array([1], np.int64), "pool/one"),
        numpy_helper.from_array(np.array(0, np.int64), "pool/first"),
    ])  # fmt: skip
    out = "pool/mean"
    if first:
        g.node.append(helper.make_node("Gather", ["last_hidden_state", "pool/first"], [out], axis=1))
    elif masked:
        g.node.extend([
            helper.make_node("Cast", ["attention_mask"], ["pool/mask"], to=1),
            helper.make_node("Unsqueeze", ["pool/mask", "pool/last"], ["pool/column"]),
            helper.make_node("Mul", ["last_hidden_state", "pool/column"], ["pool/kept"]),
            helper.make_node("ReduceSum", ["pool/kept", "pool/one"], ["pool/sum"], keepdims=0),
            helper.make_node("ReduceSum", ["pool/mask", "pool/one"], ["pool/count"], keepdims=1),
            helper.make_node("Div", ["pool/sum", "pool/count"], [out]),
        ])  # fmt: skip
        g.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "pool/last"))
    else:
        g.node.append(helper.make_node("ReduceMean", ["last_hidden_state", "pool/one"], [out], keepdims=0))
    g.node.append(
        helper.make_node("LpNormalization", [out], ["sentence_embedding"], axis=1, p=2)
        if normalised else helper.make_node("Identity", [out], ["sentence_embedding"])
    )  # fmt: skip
    del g.output[:]
    g.output.append(helper.make_tensor_value_info("sentence_embedding", 1, ["batch", WIDTH]))
    onnx.save(model, str(file))


def cased(value: dict) -> dict:
    """Upper and lower case told apart, as a cased model's tokenizer does."""
    value["normalizer"]["lowercase"] = False
    return value


def pooling_of(mode: str):
    """A pooling configuration with another mode."""

    def change(value: dict) -> dict:
        kept = {k: v for k, v in value.items() if not k.startswith("pooling_mode")}
        return {**kept, "pooling_mode": mode}

    return change


STAGES = {
    "declared CLS pooling": ("pooling", lambda f: edit(f / "1_Pooling" / "config.json", pooling_of("cls"))),
    "declared max pooling": ("pooling", lambda f: edit(f / "1_Pooling" / "config.json", pooling_of("max"))),
    "CLS pooling in the file": ("pooling", lambda f: pooled(f, masked=True, first=True)),
    "mean over padding in the file": ("pooling", lambda f: pooled(f, masked=False)),
    "attention mask dropped": ("mask", masked_out),
    "Normalize left out of modules.json": (
        "normalization", lambda f: edit(f / "modules.json", lambda m: [x for x in m if not x["type"].endswith("Normalize")])
    ),
    "normalization left out of the file": ("normalization", lambda f: pooled(f, masked=True, normalised=False)),
    "tokenizer that keeps case": ("tokens", lambda f: edit(f / "tokenizer.json", cased)),
    "max_seq_length 64": ("tokens", lambda f: edit(f / "sentence_bert_config.json", lambda v: {**v, "max_seq_length": 64})),
    "nothing": ("", lambda f: None),
}  # fmt: skip


def stages() -> None:
    """Every stage fault once."""
    with tempfile.TemporaryDirectory() as work:
        for what, (stage, damage) in STAGES.items():
            folder = folder_of(Path(work))
            damage(folder)
            found = Examination(Session(config, folder), target, TEXTS).run(layers_only=True)
            named = next((s.name for s in found.stages if s.fault), "")
            print(
                f"{'ok' if named == stage else 'WRONG':<6} {what:<36} {named or 'none':<14} {found.conclusion[:170]}", flush=True
            )
            assert named == stage


def per_tensor() -> None:
    """One scale a tensor: the list of layers to exclude, its cost, and what stands in the way."""
    from rich.console import Console

    from qguard.diagnosis.report import show

    fp32 = harness.fp32("minilm", "onnx").file
    with tempfile.TemporaryDirectory() as work:
        file = Path(work, "per_tensor.onnx")
        quantize(fp32, file, per_channel=False)
        for name in ("int8-dynamic", "int8"):
            found = Examination(Session(config, file), Target(parse_precision(name), "minilm", "core"), 64).run()
            show(found, Console(width=160, highlight=False))
            summary = to_json(found)["exclusion"]
            print(json.dumps({k: v for k, v in (summary or {}).items() if k != "costs"}), flush=True)


if __name__ == "__main__":
    parts = {"layers": layers, "parts": partial(layers, whole=False), "stages": stages, "per-tensor": per_tensor}
    for chosen in sys.argv[1:] or list(parts):
        parts[chosen]()
