"""Models, and artifacts of them, as other tools write them: what ``benchmarks/foreign_artifacts.py`` judges.

It runs in an environment of its own, which that script names. Each function of :data:`GROUPS` makes the artifacts of one tool or
kind in a folder; sound ones, and ones damaged as exports are damaged.

usage: PYTHON_OF_THAT_ENVIRONMENT benchmarks/foreign_makers.py MINILM_FOLDER PARAPHRASE_ONNX OUT [GROUP …]
"""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FAMILIES = ("roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert", "qwen3", "t5", "t5-gated")
ORDER = ("input_ids", "attention_mask", "token_type_ids")
LAYOUT = shutil.ignore_patterns("*.safetensors", "onnx", "openvino", "*.bin", "README.md")
Outputs = dict[str, Callable[[Any, Any], Any]]


# what an export makes of token embeddings (batch, length, hidden) and mask (batch, length)
def hidden(states: Any, mask: Any) -> Any:
    """Token embeddings."""
    return states


def mean(states: Any, mask: Any) -> Any:
    """Their mean over the tokens of a text."""
    kept = mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(1) / kept.sum(1).clamp(min=1e-9)


def unit(states: Any, mask: Any) -> Any:
    """The mean, of unit length."""
    return torch.nn.functional.normalize(mean(states, mask), dim=1)


def first(states: Any, mask: Any) -> Any:
    """The first token's, of unit length."""
    return torch.nn.functional.normalize(states[:, 0], dim=1)


class Wrapped(torch.nn.Module):
    """A network with inputs in any order and type, and outputs of any kind.

    Args:
        network: Of Transformers.
        inputs: Names in order.
        outputs: Name → what makes it.
        layer: Its hidden states are read; -1 for the last.
        masked: Whether the network is given the mask.
    """

    def __init__(self, network: Any, inputs: Sequence[str], outputs: Outputs, layer: int = -1, masked: bool = True) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs, self.layer, self.masked = network, tuple(inputs), outputs, layer, masked

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """The outputs, in order."""
        given = dict(zip(self.inputs, values, strict=True))
        extra = given.pop("task_id", None)
        ids = given["input_ids"].to(torch.int64)
        mask = given.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.to(torch.int64)
        named = {k: v.to(torch.int64) for k, v in given.items() if k not in ("input_ids", "attention_mask")}
        if self.masked:
            named["attention_mask"] = mask
        found = self.network(input_ids=ids, output_hidden_states=self.layer != -1, **named)
        states = found.last_hidden_state if self.layer == -1 else found.hidden_states[self.layer]
        if extra is not None:
            states = states + extra.to(states.dtype).reshape(-1, 1, 1) * 1e-9
        return tuple(make(states, mask) for make in self.outputs.values())


def network(folder: Path) -> Any:
    """The network of a model folder, with attention that both exporters write."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(str(folder), attn_implementation="eager").eval()


def export(
    net: Any, file: Path, inputs: Sequence[str] = ORDER, outputs: Outputs | None = None, *, kinds: dict[str, Any] | None = None,
    shape: tuple[int, int] | None = None, dynamo: bool = False, **more: Any,
) -> Path:  # fmt: skip
    """``torch.onnx.export`` of a wrapped network.

    Args:
        net: The network.
        file: Where to.
        inputs: Names in order.
        outputs: As of :class:`Wrapped`.
        kinds: Name → element type; int64 where not said.
        shape: Fixed batch and length; any where not said.
        dynamo: By the new exporter.
        more: See :class:`Wrapped`.
    """
    if file.exists():
        return file
    outputs = outputs or {"last_hidden_state": hidden}
    ids = torch.randint(5, 500, shape or (2, 8))
    values = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids),
        "position_ids": torch.arange(ids.shape[1]).expand(*ids.shape).contiguous() + 2,
        "task_id": torch.zeros(1, dtype=torch.int64),
    }  # fmt: skip
    args = tuple(values[n].to((kinds or {}).get(n, torch.int64)) for n in inputs)
    file.parent.mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs)}
    if shape is None and dynamo:
        batch, length = torch.export.Dim("batch", min=1, max=512), torch.export.Dim("length", min=2, max=512)
        named["dynamic_shapes"] = {"values": tuple({0: batch, 1: length} for _ in inputs)}
    elif shape is None:
        named["dynamic_axes"] = {n: {0: "batch", 1: "length"} for n in inputs if n != "task_id"}
        named["dynamic_axes"] |= {n: {0: "batch"} | ({1: "length"} if f is hidden else {}) for n, f in outputs.items()}
    version = {"dynamo": True, "external_data": False} if dynamo else {"dynamo": False, "opset_version": 17}
    torch.onnx.export(Wrapped(net, inputs, outputs, **more), args, str(file), **named, **version)
    return file


def beside(source: Path, folder: Path, **edits: Callable[[dict[str, Any]], None]) -> Path:
    """The layout of a model without its weights, its JSON files edited: ``tokenizer_config=change``."""
    shutil.copytree(source, folder, ignore=LAYOUT, dirs_exist_ok=True)
    for name, change in edits.items():
        file = folder / f"{name.replace('__', '/')}.json"
        value = json.loads(file.read_text()) if file.exists() else {}
        change(value)
        file.write_text(json.dumps(value))
    return folder


def placed(file: Path, folder: Path, name: str = "onnx/model.onnx") -> Path:
    """A copy of an ONNX file in a folder."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / name)
    return folder


def edited(file: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of an ONNX file with a changed graph."""
    model = onnx.load(str(file))
    change(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(target))
    return target


def matrices(graph: Any) -> list[Any]:
    """Its float matrices, as they lie in the file."""
    return [t for t in graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT]


def put(graph: Any, tensor: Any, values: Any) -> None:
    """Other values for a stored tensor."""
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


class Sources:
    """Models that artifacts are made of.

    Args:
        minilm: Folder of all-MiniLM-L6-v2.
        paraphrase: ONNX file of paraphrase-MiniLM-L3-v2.
        out: Where models and artifacts go.
    """

    def __init__(self, minilm: Path, paraphrase: Path, out: Path) -> None:
        self.out, self.models = out, out / "models"
        self.minilm, self.paraphrase = self.models / "minilm", self.models / "paraphrase"
        self._given = minilm, paraphrase
        self._network: Any = None

    def make(self) -> None:
        """Write the models."""
        from tests import families, static

        shutil.copytree(self._given[0], self.minilm, ignore=shutil.ignore_patterns("onnx", "openvino"))
        kinds = ["Transformer", "1_Pooling"]
        beside(self.minilm, self.paraphrase, sentence_bert_config=lambda v: v.update(max_seq_length=128))
        modules = [{"idx": i, "name": str(i), "path": k if i else "", "type": f"sentence_transformers.models.{k.lstrip('1_')}"}
                   for i, k in enumerate(kinds)]  # fmt: skip
        (self.paraphrase / "modules.json").write_text(json.dumps(modules))
        placed(self._given[1], self.paraphrase)
        for family in FAMILIES:
            families.write(family, self.models / family)
        table = torch.randn(900, 64, generator=torch.Generator().manual_seed(0)).numpy()
        static.write_model2vec(self.models / "static", embeddings=table, mapping=None, weights=None)

    @property
    def net(self) -> Any:
        """MiniLM's network, loaded once."""
        self._network = self._network or network(self.minilm)
        return self._network

    @property
    def plain(self) -> Path:
        """MiniLM as the old exporter writes it, made once."""
        file = self.out / "torch" / "plain.onnx"
        return file if file.exists() else export(self.net, file)

    @property
    def texts(self) -> list[str]:
        """Some texts that calibrate, none of them judged."""
        lines = (ROOT / "qguard" / "suites" / "core" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines[2::40]][:24]


def sentence_transformers(s: Sources, out: Path) -> None:
    """sentence-transformers' own exports."""
    from sentence_transformers import (
        SentenceTransformer,
        export_dynamic_quantized_onnx_model,
        export_optimized_onnx_model,
    )

    model = SentenceTransformer(str(s.minilm), backend="onnx", device="cpu", model_kwargs={"export": True})
    for folder in ("one", "all"):
        model.save_pretrained(str(out / folder))
    for kind in ("O1", "O2", "O3", "O4"):
        export_optimized_onnx_model(model, kind, str(out / "all"))
    for kind in ("avx2", "avx512", "avx512_vnni", "arm64"):
        export_dynamic_quantized_onnx_model(model, kind, str(out / "all"))
    for family in ("roberta", "mpnet", "distilbert", "modernbert", "t5"):
        try:
            tiny = SentenceTransformer(str(s.models / family), backend="onnx", device="cpu", model_kwargs={"export": True})
            tiny.save_pretrained(str(out / family))
        except Exception:
            traceback.print_exc()


def openvino(s: Sources, out: Path) -> None:
    """OpenVINO's IR: sentence-transformers', OpenVINO's own, and compressed by NNCF."""
    import nncf
    import openvino as ov
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(s.minilm), backend="openvino", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(str(out / "st"))
    beside(s.minilm, out / "weights")
    shutil.copyfile(s.minilm / "model.safetensors", out / "weights" / "model.safetensors")
    shutil.copytree(out / "st" / "openvino", out / "weights" / "openvino")
    converted = ov.convert_model(str(s.plain))
    ov.save_model(converted, str(beside(s.minilm, out / "half") / "openvino" / "openvino_model.xml"))
    packed = nncf.compress_weights(ov.convert_model(str(s.plain)))
    ov.save_model(packed, str(out / "packed" / "openvino_model.xml"))
    ours = nncf.compress_weights(onnx.load(str(s.plain)), mode=nncf.CompressWeightsMode.INT8_SYM)
    onnx.save(ours, str(out / "nncf.onnx"))


def optimum(s: Sources, out: Path) -> None:
    """optimum-onnx: its exporter, its optimizer and its quantizer."""
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig

    model = ORTModelForFeatureExtraction.from_pretrained(str(s.minilm), export=True)
    model.save_pretrained(str(out / "saved"))
    ORTOptimizer.from_pretrained(model).optimize(AutoOptimizationConfig.O2(), save_dir=str(out / "optimized"))
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(model).quantize(quantization_config=config, save_dir=str(out / "quantized"))
    main_export(str(s.minilm), str(out / "st-head"), task="sentence-similarity", library_name="sentence_transformers")
    for family, task in (
        ("xlm-roberta", "feature-extraction"), ("roberta", "feature-extraction"), ("t5", "feature-extraction"),
        ("t5-gated", "feature-extraction"), ("modernbert", "feature-extraction"), ("qwen3", "feature-extraction"),
        ("qwen3", "feature-extraction-with-past"), ("mpnet", "feature-extraction"),
    ):  # fmt: skip
        try:
            target = out / f"{family}{'-past' if task.endswith('past') else ''}"
            main_export(str(s.models / family), str(target), task=task, library_name="transformers")
        except Exception:
            traceback.print_exc()


def torch_onnx(s: Sources, out: Path) -> None:
    """``torch.onnx.export``: both exporters, inputs in other orders and types, other outputs."""
    net, long, short = s.net, torch.int64, torch.int32
    s.plain  # noqa: B018  # made here
    export(net, out / "dynamo.onnx", dynamo=True)
    export(net, out / "reversed.onnx", ORDER[::-1])
    export(net, out / "int32.onnx", kinds=dict.fromkeys(ORDER, short))
    export(net, out / "mixed.onnx", kinds={"input_ids": short, "attention_mask": torch.float32, "token_type_ids": long})
    export(net, out / "bool.onnx", ("attention_mask", "input_ids"), kinds={"attention_mask": torch.bool})
    export(net, out / "half-mask.onnx", ORDER[:2], kinds={"attention_mask": torch.float16})
    export(net, out / "fixed256.onnx", ORDER[:2], shape=(1, 256))
    export(net, out / "fixed64.onnx", ORDER[:2], shape=(1, 64))
    export(net, out / "pooled.onnx", outputs={"sentence_embedding": unit})
    export(net, out / "other-name.onnx", ORDER[:2], outputs={"output_0": hidden})
    export(net, out / "vectors-other-name.onnx", ORDER[:2], outputs={"vectors": unit})
    export(net, out / "row.onnx", ORDER[:2], outputs={"sentence_embedding": lambda x, m: unit(x, m).unsqueeze(1)})
    export(net, out / "half-output.onnx", ORDER[:2], outputs={"sentence_embedding": lambda x, m: unit(x, m).half()})
    export(net, out / "pooler.onnx", outputs={"pooler_output": lambda x, m: torch.tanh(x[:, 0]), "last_hidden_state": hidden})
    export(net, out / "both.onnx", outputs={"token_embeddings": hidden, "sentence_embedding": unit})
    heads: Outputs = {"dense_vecs": unit, "sparse_vecs": lambda x, m: x.sum(-1).relu(), "colbert_vecs": hidden}
    export(net, out / "three.onnx", ORDER[:2], outputs=heads)
    export(net, out / "two.onnx", ORDER[:2], outputs={"out_a": unit, "out_b": mean})
    export(net, out / "task.onnx", (*ORDER[:2], "task_id"))
    # damaged
    export(net, out / "no-mask-input.onnx", ORDER[:1])
    export(net, out / "mask-ignored.onnx", ORDER[:2], masked=False)
    export(net, out / "no-normalize.onnx", outputs={"sentence_embedding": mean})
    export(net, out / "cls.onnx", outputs={"sentence_embedding": first})
    export(net, out / "disagree.onnx", outputs={"token_embeddings": hidden, "sentence_embedding": first})
    export(net, out / "both-no-normalize.onnx", outputs={"token_embeddings": hidden, "sentence_embedding": mean})
    export(net, out / "layer5.onnx", ORDER[:2], layer=5)
    export(net, out / "padding-pooled.onnx", ORDER[:2], outputs={"sentence_embedding": lambda x, m: unit(x, torch.ones_like(m))})
    roberta = network(s.models / "roberta")
    export(roberta, out / "roberta-positions.onnx", ("input_ids", "position_ids", "attention_mask"))
    export(network(s.models / "distilbert"), out / "distilbert-mean.onnx", ORDER[:2], outputs={"sentence_embedding": unit})
    export(network(s.models / "xlm-roberta"), out / "xlmr-int32.onnx", ORDER[1::-1], kinds=dict.fromkeys(ORDER, short))
    qwen = network(s.models / "qwen3")

    def last(states: Any, mask: Any) -> Any:
        at = mask.sum(1) - 1
        return torch.nn.functional.normalize(states[torch.arange(states.shape[0]), at], dim=1)

    export(qwen, out / "qwen3-last.onnx", ORDER[:2], outputs={"sentence_embedding": last}, dynamo=True)
    export(qwen, out / "qwen3-mean.onnx", ORDER[:2], outputs={"sentence_embedding": unit}, dynamo=True)
    from transformers import T5EncoderModel

    t5 = T5EncoderModel.from_pretrained(str(s.models / "t5")).eval()
    export(t5, out / "t5-encoder.onnx", ORDER[:2])
    export(t5, out / "t5-without-dense.onnx", ORDER[:2], outputs={"sentence_embedding": unit})
    shift = [x for x in onnx.load(str(out / "roberta-positions.onnx")).graph.initializer if "position_embeddings" in x.name]

    def shifted(model: Any) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == shift[0].name)
        put(model.graph, tensor, np.roll(numpy_helper.to_array(tensor), 2, axis=0))

    edited(out / "roberta-positions.onnx", out / "roberta-shifted.onnx", shifted)


def onnxruntime(s: Sources, out: Path) -> None:
    """ONNX Runtime's own tools, and onnxconverter-common."""
    import onnxruntime as ort
    from onnxconverter_common.float16 import convert_float_to_float16 as common_half
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_dynamic
    from onnxruntime.quantization import quantize_static as static
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.float16 import convert_float_to_float16 as half
    from tokenizers import Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    for name, file in (("minilm", s.plain), ("paraphrase", s.paraphrase / "onnx" / "model.onnx")):
        for level in ("EXTENDED", "BASIC"):
            options = ort.SessionOptions()
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
            options.optimized_model_filepath = str(out / f"{name}-{level.lower()}.onnx")
            ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        heads = (12, 384)
        fused = optimizer.optimize_model(str(file), "bert", num_heads=heads[0], hidden_size=heads[1])
        fused.save_model_to_file(str(out / f"{name}-fused.onnx"))
        onnx.save(half(onnx.load(str(file)), keep_io_types=True), str(out / f"{name}-half.onnx"))
        quantize_dynamic(str(file), str(out / f"{name}-dynamic.onnx"), per_channel=True, weight_type=QuantType.QInt8)
        quantize_dynamic(str(file), str(out / f"{name}-tensor.onnx"), per_channel=False, weight_type=QuantType.QUInt8)
    onnx.save(half(onnx.load(str(s.plain)), keep_io_types=False), str(out / "minilm-half-all.onnx"))
    onnx.save(common_half(onnx.load(str(s.plain)), keep_io_types=True), str(out / "minilm-half-common.onnx"))

    tokenizer = Tokenizer.from_file(str(s.minilm / "tokenizer.json"))
    tokenizer.no_padding()

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(s.texts)

        def get_next(self) -> Any:
            text = next(self.left, None)
            if text is None:
                return None
            ids = np.array([tokenizer.encode(text).ids])
            return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    quant_pre_process(str(s.plain), str(out / "prepared.onnx"), skip_symbolic_shape=True)
    words: dict[str, Any] = {"quant_format": QuantFormat.QDQ, "per_channel": True, "op_types_to_quantize": ["MatMul", "Gather"]}
    static(str(out / "prepared.onnx"), str(out / "minilm-static.onnx"), Reader(), **words)
    four = MatMulNBitsQuantizer(onnx.load(str(s.plain)), bits=4, block_size=32, is_symmetric=True)
    four.process()
    four.model.save_model_to_file(str(out / "minilm-q4.onnx"))


def transformers_js(s: Sources, out: Path) -> None:
    """The layout of Transformers.js, whose files its script makes with ONNX Runtime's tools."""
    made = s.out / "onnxruntime"
    names = {"model": s.plain, "model_fp16": made / "minilm-half.onnx", "model_quantized": made / "minilm-dynamic.onnx",
             "model_q4": made / "minilm-q4.onnx", "model_uint8": made / "minilm-tensor.onnx"}  # fmt: skip
    for folder in (out / "shipped", out / "lower"):
        folder.mkdir(parents=True)
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copyfile(s.minilm / file, folder / file)
    for name, file in names.items():
        placed(file, out / "shipped", f"onnx/{name}.onnx")
    placed(made / "minilm-dynamic.onnx", out / "lower", "onnx/model_quantized.onnx")
    config = json.loads((out / "lower" / "tokenizer_config.json").read_text())
    (out / "lower" / "tokenizer_config.json").write_text(json.dumps({**config, "do_lower_case": False}))


def damaged(s: Sources, out: Path) -> None:
    """Sound files with a damaged surrounding, or a stored damage."""
    file = s.plain

    def truncated(value: dict[str, Any]) -> None:
        value["truncation"] = {"max_length": 64, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}

    placed(file, beside(s.minilm, out / "cut", tokenizer=truncated))
    placed(file, beside(s.minilm, out / "cased", tokenizer_config=lambda v: v.update(do_lower_case=False)))
    placed(file, beside(s.minilm, out / "left", tokenizer_config=lambda v: v.update(truncation_side="left")))
    placed(file, beside(s.minilm, out / "short", sentence_bert_config=lambda v: v.update(max_seq_length=64)))

    def cls(value: dict[str, Any]) -> None:
        value.update(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)

    placed(file, beside(s.minilm, out / "declared-cls", **{"1_Pooling__config": cls}))
    placed(file, beside(s.minilm, out / "declared-bare"))
    modules = json.loads((out / "declared-bare" / "modules.json").read_text())
    (out / "declared-bare" / "modules.json").write_text(json.dumps(modules[:2]))

    def rows(model: Any) -> None:
        table = next(t for t in matrices(model.graph) if t.dims[0] == 30522)
        values = numpy_helper.to_array(table).copy()
        values[[3000, 4000]] = values[[4000, 3000]]
        put(model.graph, table, values)

    edited(file, out / "rows.onnx", rows)

    def one_nan(model: Any) -> None:
        table = next(t for t in matrices(model.graph) if t.dims[0] == 30522)
        values = numpy_helper.to_array(table).copy()
        values[29000, 3] = np.nan
        put(model.graph, table, values)

    edited(file, out / "nan.onnx", one_nan)

    def zeroed(model: Any) -> None:
        tensor = [t for t in matrices(model.graph) if list(t.dims) == [384, 1536]][2]
        put(model.graph, tensor, np.zeros_like(numpy_helper.to_array(tensor)))

    edited(file, out / "zeroed.onnx", zeroed)

    def swapped(model: Any) -> None:
        a, b = [t for t in matrices(model.graph) if list(t.dims) == [384, 1536]][1:3]
        x, y = numpy_helper.to_array(a).copy(), numpy_helper.to_array(b).copy()
        put(model.graph, a, y)
        put(model.graph, b, x)

    edited(file, out / "swapped.onnx", swapped)

    def renamed(model: Any) -> None:
        """The output is that of the network's first LayerNorm."""
        node = next(n for n in model.graph.node if n.op_type == "LayerNormalization")
        last = next(n for n in model.graph.node if model.graph.output[0].name in n.output)
        name = model.graph.output[0].name
        last.output[0] = "unread"
        model.graph.node.append(helper.make_node("Identity", [node.output[0]], [name], "chosen"))

    edited(file, out / "swapped-output.onnx", renamed)
    other = s.paraphrase / "onnx" / "model.onnx"
    placed(other, beside(s.minilm, out / "other-model"))
    (out / "empty").mkdir()
    (out / "page").mkdir()
    (out / "page" / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90405214\n")


def static_table(s: Sources, out: Path) -> None:
    """A static model as model2vec's script writes it: an EmbeddingBag of flat token ids and offsets."""
    from safetensors.numpy import load_file

    table = torch.from_numpy(load_file(str(s.models / "static" / "model.safetensors"))["embeddings"])

    class Bag(torch.nn.Module):
        def __init__(self, mode: str = "mean", normalize: bool = True) -> None:
            super().__init__()
            self.bag, self.normalize = torch.nn.EmbeddingBag.from_pretrained(table, mode=mode), normalize

        def forward(self, input_ids: Any, offsets: Any) -> Any:
            found = self.bag(input_ids, offsets)
            return torch.nn.functional.normalize(found) if self.normalize else found

    for name, bag in (("sound", Bag()), ("bare", Bag(normalize=False)), ("largest", Bag("max"))):
        folder = out / name / "onnx"
        folder.mkdir(parents=True)
        torch.onnx.export(
            bag.eval(), (torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2])), str(folder / "model.onnx"),
            dynamo=False, opset_version=14,
            input_names=["input_ids", "offsets"], output_names=["embeddings"],
            dynamic_axes={"input_ids": {0: "tokens"}, "offsets": {0: "texts"}, "embeddings": {0: "texts"}},
        )  # fmt: skip
        for file in ("config.json", "tokenizer.json"):
            shutil.copyfile(s.models / "static" / file, out / name / file)


GROUPS: dict[str, Callable[[Sources, Path], None]] = {
    "torch": torch_onnx, "onnxruntime": onnxruntime, "transformers.js": transformers_js,
    "sentence-transformers": sentence_transformers, "optimum": optimum, "openvino": openvino,
    "damaged": damaged, "static": static_table,
}  # fmt: skip


def main() -> None:
    """Make what is not there yet."""
    minilm, paraphrase, out, *names = sys.argv[1:]
    sources = Sources(Path(minilm), Path(paraphrase), Path(out))
    if not sources.models.exists():
        sources.make()
    torch.manual_seed(0)
    for name in names or GROUPS:
        done = sources.out / name / ".done"
        if done.exists():
            continue
        if name != "torch" or not done.parent.exists():
            shutil.rmtree(done.parent, ignore_errors=True)
        done.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            GROUPS[name](sources, done.parent)
        done.touch()
        print(f"made {name}", flush=True)


if __name__ == "__main__":
    main()
