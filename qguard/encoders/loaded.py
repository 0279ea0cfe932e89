"""The tokenizer that sentence-transformers loads, where ``tokenizer.json`` of the folder is not that one.

Transformers 5 builds the tokenizers of some classes (XLM-RoBERTa, CamemBERT, DeBERTa and others) anew from the vocabulary, and
obeys ``tokenizer_config.json``, where servers read ``tokenizer.json`` as it is. What sentence-transformers computes is the
reference, so its tokenizer is recorded with the golden and goes into every artifact that is built here.
"""

from __future__ import annotations

from pathlib import Path

from qguard.encoders.consumers import decides
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import ModelProblem, first_line
from qguard.models.model import Model


def loaded_tokenizer(model: Model) -> bytes | None:
    """``tokenizer.json`` of the tokenizer that sentence-transformers loads; imports Transformers.

    Returns:
        ``None`` where the folder's own decides token ids alike; so it does for a static model and one that comes as ONNX alone.

    Raises:
        ModelProblem: where Transformers cannot load it, or it is not one of the tokenizers library.
    """
    if model.static or model.onnx is not None:
        return None
    from tokenizers import Tokenizer

    from qguard.machine.quiet import quiet_transformers

    quiet_transformers()
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(str(model.root), trust_remote_code=False, local_files_only=True)
    except Exception as e:  # Transformers raises many kinds
        raise ModelProblem(f"Transformers cannot load the tokenizer of model {model.name!r}: {first_line(e)}") from e
    backend = getattr(found, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelProblem(
            f"the tokenizer of model {model.name!r} ({type(found).__name__}) is written in Python, and artifacts need one of the "
            "tokenizers library (tokenizer.json); qguard does not judge that yet. Give a model with a fast tokenizer"
        )
    own = TextTokenizer.tokenizer(model.root)
    if decides(own) == decides(backend):
        return None
    backend.no_padding()
    backend.no_truncation()
    return bytes(backend.to_str(pretty=True).encode())


def carry_tokenizer(model: Model, folder: Path) -> None:
    """Write what :func:`loaded_tokenizer` gives into an artifact's folder, where it is not the model's own file."""
    if (content := loaded_tokenizer(model)) is not None:
        (folder / model.pipeline.transformer / "tokenizer.json").write_bytes(content)
