"""Error per layer: what the artifact's layers hold against fp32's, and what each of them adds by itself.

The fp32 graph is run twice. Once as it is. And once with every layer fed what the artifact's own layer was fed: what then
differs is the layer's own error, and a layer that only inherits another's shows none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.diagnosis.sites import LINEAR, AlignedTensor, Net
from qguard.encoders.feeding import RIGHT
from qguard.encoders.feeds import Feeds
from qguard.encoders.ports import of_session
from qguard.errors import ArtifactProblem, first_line
from qguard.machine.cpu import saturates
from qguard.onnx.unsigned import unsigned_weights
from qguard.precisions.attention import PROJECTIONS
from qguard.vectors.cosine import of_sums

Array = NDArray[Any]
BATCH = 8
HELD = 2**29  # bytes of one graph's inner tensors that are held at once, where a single text has no more
PADDING = 8  # tokens of padding in every batch: a dropped mask must show
WORST = 1e6  # relative error of a layer whose values are not finite
FEW = 0.6  # share of channels up to which an error sits in some of them
FAR = 6.0  # times the median channel's error: such a channel stands out


@dataclass
class _Sums:
    """Running sums over tokens: of fp32's values, the artifact's, their products, and the squares of their difference."""

    xx: Array
    yy: Array
    xy: Array
    dd: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> _Sums:
        """Of one batch; in float32, whose rounding is far below any error that is looked for."""
        a, b = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        difference = a - b
        pairs = ((a, a), (b, b), (a, b), (difference, difference))
        return cls(*(np.einsum("tc,tc->c", left, right).astype(np.float64) for left, right in pairs))

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.xx + other.xx, self.yy + other.yy, self.xy + other.xy, self.dd + other.dd)

    @property
    def relative(self) -> float:
        found = float(np.sqrt(self.dd.sum() / max(self.xx.sum(), 1e-300)))
        return min(found, WORST) if np.isfinite(found) else WORST

    @property
    def cosine(self) -> float:
        found = of_sums(self.xy.sum(), self.xx.sum(), self.yy.sum())
        return found if np.isfinite(found) else 0.0


@dataclass(frozen=True)
class LayerError:
    """How far one layer's output lies from fp32's, over all tokens and channels of the sample.

    Attributes:
        layer, kind, node: See :class:`~qguard.diagnosis.sites.AlignedTensor`.
        sqnr: Signal to quantization noise, ``10 log10(sum x^2 / sum (x - y)^2)`` in dB; fp32's ``x`` and the artifact's ``y``.
        cosine: Of both, in [-1, 1].
        error: ``|x - y| / |x|`` (Frobenius).
        own: The same against fp32's layer on the artifact's own input: what this layer adds.
        own_sqnr: ``own`` in dB.
        channels: Output channels that hold the own error, where it sits in few; else empty.
        part: What these are, in words.
    """

    layer: str
    kind: str
    node: str
    sqnr: float
    cosine: float
    error: float
    own: float
    own_sqnr: float
    channels: tuple[int, ...] = field(default=(), repr=False)
    part: str = ""


def decibels(relative: float) -> float:
    """SQNR of a relative error, at most 150 dB: below that lies float32's own rounding."""
    return float(min(150.0, -20 * np.log10(max(relative, 1e-12))))


class Runner:
    """Runs inner tensors of a graph.

    Args:
        net: The graph.
        names: Tensors to give.
        given: Tensors that are fed in place of what the graph computes.
        exact: Compute what :data:`qguard.encoders.onnx.EXACT` gives, on every CPU.

    Raises:
        ArtifactProblem: when ONNX Runtime cannot load the graph.
    """

    def __init__(self, net: Net, names: Sequence[str], given: Sequence[str] = (), exact: bool = False) -> None:
        import onnx
        import onnxruntime as ort

        graph, self.names, self.given = net.copy(), list(dict.fromkeys(names)), set(given)
        ends = graph.model.graph
        del ends.output[:], ends.value_info[:]
        graph.add_outputs(self.names)
        graph.redirect(graph.nodes, {name: f"{name}/given" for name in self.given})
        ends.input.extend(
            onnx.helper.make_tensor_value_info(f"{n}/given", onnx.TensorProto.FLOAT, None) for n in sorted(self.given)
        )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if exact and saturates():
            unsigned_weights(graph)
        # every wanted tensor must exist: what is fused away cannot be given
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self.session = graph.session(options)
        except Exception as e:
            raise ArtifactProblem(f"ONNX Runtime cannot run the opened graph: {first_line(e)}") from e
        ports = of_session(self.session.get_inputs())
        self._fed = [p.name for p in ports if p.name.endswith("/given")]
        self._feeds = Feeds([p for p in ports if p.name not in self._fed], Path("the opened graph"), net.feeding)
        if self._feeds.batch is not None or self._feeds.length is not None:
            raise ArtifactProblem(
                f"its layers cannot be compared: the file fixes its inputs at {self._feeds.batch or 'any'} texts of "
                f"{self._feeds.length or 'any'} tokens; export it with dynamic axes"
            )

    def __call__(self, ids: Array, mask: Array, given: dict[str, Array] | None = None) -> dict[str, Array]:
        """The tensors by name, float32, for padded token ids and their mask (batch, length)."""
        feeds = self._feeds(ids, mask)
        feeds |= {n: given[n.removesuffix("/given")] for n in self._fed if given is not None}
        return dict(zip(self.names, self.session.run(self.names, feeds), strict=True))


def layer_errors(
    fp32: Net,
    candidate: Net,
    sites: Sequence[AlignedTensor],
    ids: Sequence[Sequence[int]],
    pad_id: int = 0,
    exact: bool = False,
    advance: Callable[[], None] = lambda: None,
    room: int | None = None,
    side: str = RIGHT,
) -> list[LayerError]:
    """The error of every site, in the order of the graph.

    Args:
        fp32: The fp32 graph, opened.
        candidate: The artifact's, opened.
        sites: What both compute.
        ids: Token ids of n texts.
        pad_id: What fills short rows.
        exact: The artifact is to be run with :data:`qguard.encoders.onnx.EXACT`.
        advance: Called after each batch.
        room: Tokens that the model has positions for; padding goes no further.
        side: Where padding goes.

    Raises:
        ArtifactProblem: when one of the graphs does not run, or nothing could be compared.
    """
    theirs = Runner(candidate, [s.candidate for s in sites], exact=exact)
    mine = _kept(fp32, sites, fed=False)
    usable, size = _usable(theirs, mine, sites, ids[0], pad_id)
    if not usable:
        raise ArtifactProblem("no tensor of the artifact has the type and shape of its counterpart in the fp32 export")
    fed = _kept(fp32, usable, fed=True)
    total: dict[str, _Sums] = {}
    own: dict[str, _Sums] = {}
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    start = 0
    while start < len(order):
        fits = int(HELD / (size * (len(ids[order[start]]) + PADDING)))
        # batches of small models stay as they are
        count = min(max(1, fits), BATCH - start % BATCH)
        inputs, mask = behind([ids[i] for i in order[start : start + count]], pad_id, PADDING, room, side)
        y = theirs(inputs, mask)
        x = mine(inputs, mask)
        values = {s.fp32: y[s.candidate].astype(np.float32).reshape(x[s.fp32].shape) for s in usable}
        alone = fed(inputs, mask, values)
        for s in usable:
            for sums, reference in ((total, x), (own, alone)):
                found = _Sums.of(_tokens(reference[s.fp32], mask), _tokens(values[s.fp32], mask))
                sums[s.fp32] = sums[s.fp32] + found if s.fp32 in sums else found
        start += count
        if not start % BATCH or start == len(order):
            advance()
    heads = _heads(fp32)
    return [_error(s, total[s.fp32], own[s.fp32], heads) for s in usable]


def behind(rows: Sequence[Sequence[int]], pad_id: int, padding: int, room: int | None, side: str = RIGHT) -> tuple[Any, ...]:
    """Token ids and mask of a batch, with ``padding`` tokens more than its longest text, or as many as the model has room for."""
    from qguard.encoders import padded

    return padded(rows, pad_id, padding if room is None else max(0, min(padding, room - max(map(len, rows)))), side)


def _kept(fp32: Net, sites: Sequence[AlignedTensor], *, fed: bool) -> Runner:
    """The fp32 graph, loaded once for all artifacts that it is compared with."""
    names = tuple(s.fp32 for s in sites)
    key = names, fed
    if key not in fp32.loaded:
        fp32.loaded[key] = Runner(fp32, names, names if fed else ())
    found: Runner = fp32.loaded[key]
    return found


def _tokens(values: Array, mask: Array) -> Array:
    """The rows of tokens, without padding; a table of positions as it is."""
    return values[mask.astype(bool)] if values.shape[:2] == mask.shape else values


def _usable(
    theirs: Runner, mine: Runner, sites: Sequence[AlignedTensor], ids: Sequence[int], pad_id: int
) -> tuple[list[AlignedTensor], float]:
    """Sites whose tensors are floats of equal size, and how many bytes all of them have for one token."""
    row, mask = np.asarray([ids, ids], np.int64), np.ones((2, len(ids)), np.int64)
    y, x = theirs(row, mask), mine(row, mask)
    usable = [s for s in sites if y[s.candidate].dtype.kind == "f" and y[s.candidate].size == x[s.fp32].size]
    return usable, sum(x[s.fp32].nbytes for s in usable) / row.size


def _heads(net: Net) -> int:
    nodes = (n for n in net.nodes if n.op_type in ("MultiHeadAttention", "Attention"))
    return next((int(a.i) for n in nodes for a in n.attribute if a.name in ("num_heads", "q_num_heads")), 0)


def _error(site: AlignedTensor, total: _Sums, own: _Sums, heads: int) -> LayerError:
    channels = standing_out(own.dd, own.xx)
    part = words(channels, len(own.dd), heads if site.kind == LINEAR and site.layer.rsplit("/", 1)[-1] in PROJECTIONS else 0)
    numbers = (decibels(total.relative), total.cosine, total.relative, own.relative, decibels(own.relative))
    return LayerError(site.layer, site.kind, site.node, *numbers, channels, part)


def standing_out(error: Array, energy: Array) -> tuple[int, ...]:
    """Channels that hold the error, where these are few: each far above the median, together most of it.

    Args:
        error: Squared error of each channel.
        energy: Squared values of each channel; an error of a thousandth of them is float32's rounding.
    """
    if error.sum() <= 1e-6 * energy.sum():
        return ()
    far = np.flatnonzero(error > FAR**2 * max(float(np.median(error)), 1e-9 * float(energy.mean())))
    few = 0 < len(far) <= FEW * len(error)
    return tuple(int(i) for i in far) if few and error[far].sum() > 0.8 * error.sum() else ()


def words(channels: Sequence[int], width: int, heads: int = 0) -> str:
    """Channels as ranges, or as the attention heads that they fill."""
    if not channels:
        return ""
    size = width // heads if heads else 0
    if size:
        hit = sorted({c // size for c in channels})
        if len(channels) >= 0.5 * size * len(hit):
            return f"head{'s' if len(hit) > 1 else ''} {', '.join(map(str, hit))}"
    runs: list[list[int]] = []
    for c in channels:
        if runs and c == runs[-1][1] + 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    shown = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs[:4])
    return f"{len(channels)} of {width} channels: {shown}{' …' if len(runs) > 4 else ''}"
