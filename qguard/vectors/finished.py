"""Finished vectors that a file gives under several names: one and the same, or the project says which one it deploys."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qguard.encoders import Encoder, Floats
from qguard.encoders.interface import Interface
from qguard.encoders.outputs import FINISHED
from qguard.encoders.pooling import Head
from qguard.encoders.ports import Port, plain
from qguard.errors import ArtifactProblem
from qguard.vectors.similarity import similarity_of

SAME = 0.999  # cosine of each text's two vectors: a head in 8 bits rounds less


def finished(interface: Interface) -> list[Port]:
    """The outputs of a file that are one vector a text, the one that is read first."""
    output = interface.output
    own = [output.port] if output.finished or output.port.rank == 2 else []
    others = (p for p in output.others if plain(p.name) in FINISHED and p.kind.startswith("float"))
    return [*own, *(p for p in others if p.rank == 2 or (p.shape is not None and p.shape[1] == 1))]


def given_by(encoder: Encoder, port: Port, rows: Sequence[Any], batches: Sequence[Sequence[int]]) -> Floats:
    """What the file itself gives at a port, before any head: float32 (texts, width), in the order of ``rows``."""
    runtime: Any = copy.copy(encoder.runtime)
    runtime.interface = runtime.interface.reading(port)
    bare = Head(replace(encoder.head.pipeline, head=(), truncate_dim=None))
    return Encoder(encoder.tokenizer, runtime, bare).encode_batches(rows, batches)


def refuse_several(encoder: Encoder, rows: Sequence[Any], batches: Sequence[Sequence[int]], name: str) -> None:
    """Refuse a file whose finished outputs differ, unless the project names the one that is read.

    Args:
        encoder: Over the file.
        rows: What is encoded of some texts.
        batches: Indices into them, each once.
        name: Of the file, for the message.

    Raises:
        ArtifactProblem: with every output and how far it is from the one that would be read.
    """
    interface = getattr(encoder.runtime, "interface", None)
    ports = finished(interface) if interface is not None else []
    if interface is None or interface.output.named or interface.output.port not in ports or len(ports) < 2:
        return
    similarity = similarity_of(encoder.head.pipeline)
    first, *others = (given_by(encoder, port, rows, batches) for port in ports)
    near = [float(similarity.agreement(first, v).min()) if v.shape == first.shape else None for v in others]
    if all(n is not None and n >= SAME for n in near):
        return
    far = ["another width" if n is None else f"cosine down to {n:.4f}" for n in near]
    told = [f"{port} ({words})" for port, words in zip(ports[1:], far, strict=True)]
    raise ArtifactProblem(
        f"{name} has {len(ports)} outputs that could be the embedding, and their vectors differ: {ports[0]}, {', '.join(told)}. "
        f'Name the one that you deploy in the model\'s table of [tool.qguard.models]: output = "{ports[0].name}"'
    )
