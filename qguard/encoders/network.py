"""A transformer folder as a torch network, opened by Transformers: what is exported, quantized in torch or run there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem, QguardError, first_line
from qguard.files import read_json
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.machine.quiet import quiet_transformers
from qguard.models.admission import ENCODERS
from qguard.models.model import weight_files
from qguard.models.table import OURS, THEIRS, is_table

# what opens the network of a kind of models whose outputs its head makes
_OF_KIND = {CROSS_ENCODER: "AutoModelForSequenceClassification", SPARSE: "AutoModelForMaskedLM"}


def network_class(root: Path, kind: str = DENSE) -> Any:
    """What opens a transformer folder: ``AutoModel``, or for an encoder with a decoder the class of the encoder alone; of a
    cross-encoder and a sparse model the class with the head that makes their logits.
    """
    quiet_transformers()
    import transformers

    name = ENCODERS.get(str(read_json(root / "config.json", ModelProblem).get("model_type")), "AutoModel")
    return getattr(transformers, _OF_KIND.get(kind, name))


def without_weights(root: Path, of: str = DENSE) -> Any:
    """The network that the configuration of a transformer folder describes, in float32, with weights that nobody has trained.

    Args:
        root: The folder.
        of: The model's kind.
    """
    import torch

    kind = network_class(root, of)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(root), trust_remote_code=False, local_files_only=True)
    make = getattr(kind, "from_config", None) or kind._from_config  # of AutoModel, of a class of its own
    return make(config, dtype=torch.float32)


def open_network(root: Path, dtype: str = "float32", kind: str = DENSE, **options: Any) -> tuple[Any, set[str]]:
    """A transformer folder as sentence-transformers opens it, with no code but Transformers' own.

    Args:
        root: The folder of the transformer module.
        dtype: Name of a torch dtype.
        kind: The model's, a name in :data:`qguard.kinds.KINDS`.
        options: More of ``from_pretrained``.

    Returns:
        The network, for inference, and the names of its parameters that the folder lacks: those of a pooler, which no
        embedding reads.

    Raises:
        ModelProblem: when Transformers cannot load the folder, or the folder's weights are not those that Transformers computes
            with: it would fill in noise, or leave out what the code that comes with the model uses.
    """
    import torch

    refuse_foreign_weights(root)
    try:
        network, info = network_class(root, kind).from_pretrained(
            str(root), dtype=getattr(torch, dtype), output_loading_info=True, trust_remote_code=False, local_files_only=True,
            use_safetensors=True, **options,
        )  # fmt: skip
    except QguardError:
        raise
    except Exception as e:  # Transformers raises many kinds for a damaged folder
        raise ModelProblem(
            f"Transformers cannot load {root.name}: {first_line(e)}; copy it again, or install the version that wrote it"
        ) from e
    _refuse_other_weights(root, network, info)
    return network.eval(), set(info["missing_keys"])


def refuse_foreign_weights(root: Path) -> None:
    """A transformer folder's weights are safetensors of its own.

    Without them Transformers would open pickled ones, and it puts an adapter's over them.

    Raises:
        ModelProblem: naming what is there instead.
    """
    if (root / "adapter_config.json").exists():
        raise ModelProblem(
            f"{root.name} is a PEFT adapter (adapter_config.json), whose weights are not its own; merge it and save the whole: "
            "PeftModel.from_pretrained(base, adapter).merge_and_unload()"
        )
    weight_files(root)


def _refuse_other_weights(root: Path, network: Any, info: Mapping[str, Any]) -> None:
    """Transformers computes with the folder's weights, all of them."""
    kind = network.config.model_type
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelProblem(
            f"{root.name} lacks {len(missing)} of the weights of a model of type {kind!r}, such as {missing[0]}: Transformers "
            "would fill them with noise. Expected the weights of that type (model_type in config.json); save the model again"
        )
    if not read_json(root / "config.json", ModelProblem).get("auto_map"):
        return  # what else lies there, Transformers does not use, and neither does anybody
    known = {name for name, _ in network.named_children()}
    surplus = sorted(name for name in info["unexpected_keys"] if name.partition(".")[0] in known)
    if surplus:
        raise ModelProblem(
            f"{root.name} comes with code of its own (auto_map in config.json), which is never run, and Transformers' type "
            f"{kind!r} leaves out {len(surplus)} of its weights, such as {surplus[0]}: they compute different vectors. Give a "
            "copy of the model in a type that Transformers has, or its fp32 ONNX file"
        )


def lookup_tables(root: Path) -> set[str]:
    """Names of the tensors of a transformer folder whose rows are looked up, by the network that its configuration describes.

    Raises:
        ModelProblem: when Transformers cannot build that network.
    """
    import torch

    if is_table(root):
        return {OURS, THEIRS}
    try:
        with torch.device("meta"):
            network = without_weights(root)
    except QguardError:
        raise
    except Exception as e:  # Transformers raises many kinds for a damaged folder
        raise ModelProblem(f"Transformers cannot read {root.name}: {first_line(e)}") from e
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, torch.nn.Embedding)}
