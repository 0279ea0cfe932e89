"""fp32 as ONNX: our own export through ``torch.onnx``, checked against torch; for ONNX Runtime with attention fused."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.encoders.network import open_network
from qguard.errors import ArtifactProblem, first_line
from qguard.files import dump_json
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.machine.memory import release
from qguard.machine.quiet import quiet_transformers
from qguard.models.model import Model
from qguard.onnx import edit
from qguard.onnx.edit import Graph, remove
from qguard.onnx.read import external_files
from qguard.precisions.norms import rms_layer_norm
from qguard.vectors.similarity import DOT, similarity_of

if TYPE_CHECKING:
    from qguard.encoders import Encoder

OPSET = 17
MIN_COSINE = 0.99999
INSTEAD = "judge the model in torch: --precision bf16"
# Written for the check: several lengths, scripts and padding patterns.
CHECK_TEXTS = (
    "The tenant shall give sixty days' notice before vacating the premises.",
    "ok",
    "Traceback (most recent call last): KeyError: 'user_id' in handlers/session.py, line 214, in load",
    "Mein Paket ist seit neun Tagen unterwegs und die Sendungsnummer zeigt nichts an 😕",
    "",
    "Patients who received the lower dose reported fewer headaches, although the difference was within the margin "
    "of error, and two of the fourteen sites had to be excluded because their thermometers were never calibrated. " * 6,
)


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **_: Any) -> Any:
    """Attention in the one form that ONNX Runtime's optimizer fuses: a division, then the added mask.

    Transformers multiplies by ``scaling``; the optimizer's mask pattern then matches the scale instead of the mask.
    """
    import torch

    root = 1.0 / scaling if scaling else math.sqrt(query.shape[-1])
    scores = torch.matmul(query, key.transpose(2, 3)) / root
    if attention_mask is not None:
        scores = scores + attention_mask
    out = torch.matmul(torch.softmax(scores, dim=-1), value)
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def _broadcast_masks() -> Iterator[None]:
    """Masks of eager attention by broadcasting indices: ``torch.vmap``, which Gemma's windows ask for, cannot be traced."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

    def mask(*args: Any, **said: Any) -> Any:
        return eager_mask(*args, **{**said, "use_vmap": False})

    ALL_MASK_ATTENTION_FUNCTIONS["eager"] = mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["eager"]  # what Transformers itself has there comes back


def fp32(model: Model, folder: Path) -> None:
    """Write ``onnx/model.onnx`` in fp32, fused for ONNX Runtime, and check it against torch."""
    if model.onnx is not None:
        from qguard.precisions import shipped

        shipped.fp32(model, folder)
        return
    export(model.root, onnx_file(model, folder), model.kind)
    check(model, folder, "onnx")


def onnx_file(model: Model, folder: Path) -> Path:
    """Where the ONNX file of an artifact folder goes; its folder is made."""
    target = folder / model.pipeline.transformer / "onnx" / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def declare_exact_products(file: Path) -> None:
    """Say beside an ONNX file of signed 8-bit weights how it is to be run; see :func:`qguard.encoders.onnx.exact_products`."""
    from qguard.encoders.onnx import EXACT, OPTIONS_FILE

    file.with_name(OPTIONS_FILE).write_bytes(dump_json({EXACT: "1"}))


def check(model: Model, folder: Path, runtime: str) -> None:
    """Compare the fp32 file of an artifact folder, run in ``runtime``, with torch on :data:`CHECK_TEXTS`.

    Raises:
        ArtifactProblem: when the export's embeddings differ from torch's (cosine below :data:`MIN_COSINE`).
    """
    from qguard.encoders import open_encoder

    sides = ((runtime, folder, onnx_file(model, folder)), ("torch", model.folder, None))
    what = f"the ONNX export of {model.name} does not reproduce torch in {runtime}"
    try:
        found = agreement(open_encoder(name, where, model.pipeline, "fp32", file) for name, where, file in sides)
    except ArtifactProblem as e:  # other lengths than the traced one
        raise ArtifactProblem(f"{what} ({e}); {INSTEAD}") from e
    if not found >= MIN_COSINE:
        raise ArtifactProblem(f"{what}: cosine {found:.6f}, expected >= {MIN_COSINE}; {INSTEAD}")


def agreement(encoders: Iterator[Encoder]) -> float:
    """The smallest cosine between two encoders' embeddings of a text in :data:`CHECK_TEXTS`; one of them is open at a time."""
    release()
    ids, vectors, nearness = list[list[int]](), [], DOT.nearness
    for encoder in encoders:
        pipeline = encoder.head.pipeline
        nearness = similarity_of(pipeline).nearness
        if not ids:
            roles = (None,) if pipeline.late is None else (None, "query")  # what fills queries up is computed otherwise
            every = (row for role in roles for row in encoder.tokenizer(CHECK_TEXTS, [role] * len(CHECK_TEXTS)))
            ids = [row for row in every if row]  # not every tokenizer has one for the empty text
        vectors.append(encoder.encode_ids(ids))
        del encoder
        release()
    return float(nearness(*vectors).min())


def export(root: Path, target: Path, kind: str = DENSE) -> None:
    """Export a Transformers encoder and fuse its attention, LayerNorm and GELU for ONNX Runtime, where it knows its type."""
    raw = target.with_suffix(".raw.onnx")
    config = export_plain(root, raw, kind)
    release()
    if config.model_type in _OPTIMISER:
        _fuse(raw, target, _OPTIMISER[config.model_type], config)
        if kind == CROSS_ENCODER:
            _plain_head(target)
    else:
        from qguard.precisions.fusion import fuse

        graph = Graph.read(raw)
        fuse(graph)
        graph.save(target)
    remove(raw)
    if kind == SPARSE:
        tie_decoder(target)


def tie_decoder(file: Path) -> None:
    """Store the matrix of a masked language model's decoder once where it is the table of words, as in the model's own files.

    torch writes it a second time, transposed. ONNX Runtime transposes it again when it loads the file.
    """
    import numpy as np
    from onnx import helper

    graph = Graph.read(file)
    matrices = {name: tuple(t.dims) for name, t in graph.initializers.items() if len(t.dims) == 2}
    for node in [n for n in graph.nodes if n.op_type == "MatMul" and n.input[1] in matrices]:
        weight = node.input[1]
        for table, shape in matrices.items():
            turns = shape == matrices[weight][::-1] and shape[0] > shape[1]
            if turns and np.array_equal(graph.array(table), graph.array(weight).T):
                turned = f"{table}/decoder"
                graph.set_input(node, 1, turned)  # before the nodes are made anew
                graph.prepend([helper.make_node("Transpose", [table], [turned], turned, perm=[1, 0])])
                graph.drop_tensors([weight])
                graph.save(file)
                return


def _plain_head(file: Path) -> None:
    """A classifier reads one token of a pair, so that its layers are written as Gemm: as MatMul, every quantizer knows them."""
    from qguard.precisions.products import plain_products

    graph = Graph.read(file)
    plain_products(graph)
    graph.save(file)


def export_plain(root: Path, target: Path, kind: str = DENSE) -> Any:
    """Export a Transformers encoder with dynamic batch and length, in standard ONNX operators alone; gives its configuration.

    Args:
        root: The folder of the transformer.
        target: The file.
        kind: The model's: a cross-encoder's file gives ``logits`` (batch, labels), a sparse one's (batch, length, words), and
            every other one's ``last_hidden_state`` (batch, length, hidden).
    """
    import torch

    quiet_transformers()
    from transformers import AttentionInterface

    AttentionInterface.register("qguard", _attention)
    network, _ = open_network(root, kind=kind, attn_implementation="eager")
    config = network.config
    fused = config.model_type in _OPTIMISER
    if fused:
        network.set_attn_implementation("qguard")
    has_types = bool(getattr(config, "type_vocab_size", 0) or 0)

    class Transformer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any, *more: Any) -> Any:
            mask = attention_mask
            apart.put(more[has_types:])
            if fused:
                mask = (1.0 - mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
            named = {"input_ids": input_ids, "attention_mask": mask, **({"token_type_ids": more[0]} if has_types else {})}
            out = getattr(self.network(**named), gives)
            apart.put(())  # torch compares what the module holds before and after
            return out

    gives, scores = "logits" if kind in (CROSS_ENCODER, SPARSE) else "last_hidden_state", kind == CROSS_ENCODER
    apart = _Apart(network)
    ids = torch.full((2, 8), 5)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if has_types else [])]
    stand_ins = (torch.zeros(1).expand(w.shape) for w in apart.weights.values())
    example = (ids, mask, *([torch.zeros_like(ids)] if has_types else []), *stand_ins)
    apart.put(())
    try:
        with warnings.catch_warnings(), torch.inference_mode(), _broadcast_masks():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Transformer().eval(), example, str(target), input_names=[*names, *apart.weights],
                output_names=[gives],
                dynamic_axes={n: {0: "batch", 1: "length"} for n in [*names, gives]} | ({gives: {0: "batch"}} if scores else {}),
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip
    except Exception as e:  # torch raises whatever its tracer or the model's own code meets
        raise ArtifactProblem(
            f"torch {torch.__version__} cannot export a model of type {config.model_type!r} to ONNX ({first_line(e)}); {INSTEAD}"
        ) from e
    if apart.weights or not fused:
        from qguard.precisions.products import plain_products

        graph = Graph.read(target)
        for name, weight in apart.weights.items():
            graph.put(name, weight.detach().numpy())
            graph.drop_input(name)
        plain_products(graph)
        graph.save(target)
    return config


class _Apart:
    """The weights of a large network, kept out of its trace, of which torch makes copies.

    They are inputs of what is traced, and zeros without memory stand for them.

    Attributes:
        weights: By name; none of a network that fits one file.
    """

    def __init__(self, network: Any) -> None:
        weights = dict(network.named_parameters(prefix="network"))
        self.weights = weights if sum(w.nbytes for w in weights.values()) > edit.WHOLE else {}
        # layers may share a weight
        self._places = [(m._parameters, leaf, id(p)) for m in network.modules() for leaf, p in m._parameters.items()]

    def put(self, values: Iterable[Any]) -> None:
        """Let the network compute with other tensors in their place, or hold none of them."""
        new = dict.fromkeys(map(id, self.weights.values())) | dict(zip(map(id, self.weights.values()), values, strict=False))
        for parameters, leaf, old in self._places:
            if old in new:
                parameters[leaf] = new[old]


# Architectures whose attention goes through Transformers' AttentionInterface, and the optimizer that knows them.
_OPTIMISER = {"bert": "bert", "roberta": "bert", "xlm-roberta": "bert", "camembert": "bert", "electra": "bert"}


def fusion_options(family: str) -> Any:
    """Fusion options that keep the attention mask and the biases as they are.

    A count of tokens in place of the mask would be wrong for left-padded batches. A bias inside of GELU or LayerNorm is
    added by these, where it costs a pass over the tensor; beside its product it is part of the product in every kernel.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(family)
    options.use_raw_attention_mask(True)
    options.enable_bias_gelu = options.enable_bias_skip_layer_norm = False
    return options


def export_split(root: Path, target: Path, kind: str = DENSE) -> None:
    """Like :func:`export`, but every weight stays an input of a standard MatMul, Add or Gather, as quantizers expect it."""
    raw = target.with_suffix(".raw.onnx")
    config = export_plain(root, raw, kind)
    release()
    if config.model_type in _OPTIMISER:
        _fuse(raw, target, _OPTIMISER[config.model_type], config, split=True)
    else:
        Graph.read(raw).save(target)
    remove(raw)


def _fuse(raw: Path, target: Path, family: str, config: Any, *, split: bool = False) -> None:
    from onnxruntime.transformers import optimizer

    options = fusion_options(family)
    if split:
        options.use_multi_head_attention = options.disable_multi_head_attention_bias = True
        options.enable_embed_layer_norm = False
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    if external_files(raw):  # too large to be held: of its weights only query, key and value, which are packed, are needed
        options.enable_embed_layer_norm = False  # reads the table of words
    graph = optimizer.optimize_model(
        Graph.read(raw).whole(4 * config.hidden_size**2), model_type=family,
        num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0, optimization_options=options,
    )  # fmt: skip
    count = graph.get_fused_operator_statistics().get("MultiHeadAttention" if split else "Attention", 0)
    if count != config.num_hidden_layers:
        raise ArtifactProblem(
            f"attention fused in {count} of {config.num_hidden_layers} layers; the export would be a third slower. "
            f"Please report the model type {config.model_type!r}"
        )
    save_fused(graph, raw.parent, target, plain_norms=True)


def save_fused(optimized: Any, folder: Path, target: Path, *, plain_norms: bool) -> None:
    """Write what ONNX Runtime's optimizer made, as it does itself, but for tensors that it was not given.

    Args:
        optimized: Its ``OnnxModel``.
        folder: Of these tensors.
        target: The file.
        plain_norms: Apply :func:`qguard.precisions.norms.rms_layer_norm`, which needs an operator set below 18.
    """
    graph = Graph(optimized.model, folder)
    if plain_norms:
        rms_layer_norm(graph)
    graph.import_domain("com.microsoft")
    optimized.topological_sort()
    graph.save(target)
