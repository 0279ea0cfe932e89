"""int8 in ONNX Runtime: static activations, with what is hard to quantize moved or kept out of the way.

Over the fused fp32 export, each weight multiplication becomes QuantizeLinear and an integer product. Four things keep the
vectors close, all of them decided by calibration texts and all free or nearly free when the model runs:

- a channel's middle is subtracted before it is quantized and its product with the weights added to the bias: LayerNorm's
  outlier channels are large because they are constant (Outlier Suppression+, Wei et al. 2023);
- wide channels are narrowed and their weights widened (SmoothQuant, Xiao et al. 2023);
- the few channels that stay far wider than the others are multiplied in float beside the integer product
  (LLM.int8, Dettmers et al. 2022, with the channels chosen beforehand);
- weights are rounded one after the other so that later ones make up for the errors of earlier ones on the calibration
  texts (GPTQ, Frantar et al. 2023).

Ranges are fixed, so a text's vector does not depend on its neighbors in the batch. A model with massive activations
(:func:`massive`) has a scale for each token instead, where fixed ranges do not last; it depends on that token alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import ArtifactProblem
from qguard.machine.memory import release
from qguard.models.model import Model
from qguard.onnx.edit import Graph, attributes
from qguard.onnx.structure import ATTENTION, NORM, SUM, made_by, readable
from qguard.precisions import folded
from qguard.precisions.attention import standard_attention
from qguard.precisions.export import declare_exact_products, onnx_file
from qguard.precisions.gptq import round_weights
from qguard.precisions.norms import axes_as_inputs
from qguard.precisions.products import MOVES, plain_products
from qguard.precisions.split import OUTLIERS, Made, chains, note
from qguard.precisions.tuning import Tuning

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact
    from qguard.encoders.feeding import Feeding
    from qguard.precisions.calibration import Sample

Array = NDArray[Any]
BATCH = 8
SHARE = 0.25  # of an input's channels that may be multiplied in float
NARROW = 1024  # channels below which an input has but FEWER of them in float
FEWER = (0, 4)
OUTPUTS = 2**30  # bytes of inputs that a batch gives at once, where a single text has no more
WIDE = 2048  # channels above which second moments are summed in float32, whose rounding is far below GPTQ's damping
MOMENTS = 5 * 2**29  # bytes of second moments that are held at once; for more, the texts are run again


@dataclass(frozen=True)
class Plan:
    """How the input of one kind of multiplication is treated.

    Attributes:
        shift: Subtract each channel's middle.
        smooth: SmoothQuant's alpha: how much of a channel's width goes over to its weights; ``None`` for none.
        outliers: How many channels are multiplied in float; of a narrow input :data:`FEWER`.
        token: Each token has a scale of its own, by its widest channel, found when the model runs.
    """

    shift: bool = False
    smooth: float | None = None
    outliers: int = 0
    token: bool = False


# by what made the input; benchmarks/recipes.py found them on two models
_NORMED = Plan(shift=True, smooth=0.8)
PLANS: dict[str, tuple[Plan, ...]] = {
    NORM: (_NORMED,),
    ATTENTION: (Plan(),),  # means of values: narrow already
    "": (Plan(outliers=64),),  # after GELU or a gate a few channels are ten times as wide as the rest
}
# the same of a model with massive activations, cheapest first
MASSIVE_PLANS: dict[str, tuple[Plan, ...]] = {
    # a channel of 65 beside 1.5 widens its weights so much that those of the others lose their bits
    NORM: (_NORMED, replace(_NORMED, outliers=4)),
    # a token that looks at one other alone is ten times as wide as the others
    ATTENTION: (Plan(token=True),),
    "": (Plan(outliers=8, token=True),),
}
for _plans in (PLANS, MASSIVE_PLANS):
    _plans[SUM] = _plans[NORM]
GAIN = 0.5  # a dearer plan is taken where the error that is expected of it is at most this much of the cheaper one's
MASSIVE = 10.0  # times as wide as the widest channel that is multiplied in integers
MIDDLE = 128  # the zero point of values of both signs
ONE_SIDED = 0.25  # of the greatest value: what is less negative counts as hardly ever negative
HEADROOM = 2.0  # how far a token may go beyond the calibration texts' range
FEW = 16  # texts that show whether a model has massive activations


@dataclass
class Statistics:
    """What is known of one input over all calibration tokens: range, mean and second moments of its channels.

    Attributes:
        low, high, total: Least, greatest and sum of each channel, float64 (channels,).
        moments: Sums of products of two channels (channels, channels), float64, or float32 above :data:`WIDE` channels.
        count: Tokens.
    """

    low: Array
    high: Array
    total: Array
    moments: Array
    count: int = 0

    @classmethod
    def empty(cls, channels: int) -> Statistics:
        """Of no token."""
        moments = np.zeros((channels, channels), _moments(channels))
        return cls(np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros(channels), moments)

    @classmethod
    def sum(cls, parts: Iterable[Statistics]) -> Statistics:
        """Of all that several inputs hold, as if they were one."""
        every = list(parts)
        if len(every) == 1:
            return every[0]
        low, high = (f([getattr(p, k) for p in every], axis=0) for f, k in ((np.min, "low"), (np.max, "high")))
        total, moments = (np.sum([getattr(p, k) for p in every], axis=0) for k in ("total", "moments"))
        return cls(low, high, total, moments, sum(p.count for p in every))

    def add(self, tokens: Array) -> None:
        """Tokens (n, channels)."""
        self.low, self.high = np.minimum(self.low, tokens.min(0)), np.maximum(self.high, tokens.max(0))
        self.total += tokens.sum(0, dtype=np.float64)
        x = tokens.astype(self.moments.dtype)
        self.moments += x.T @ x
        self.count += len(x)

    def hessian(self, middle: Array | float = 0.0, width: Array | float = 1.0) -> Array:
        """Mean of the outer products of ``(x - middle) / width``."""
        middle, width = np.broadcast_to(middle, self.total.shape), np.broadcast_to(width, self.total.shape)
        mean, out = self.total / self.count, self.moments / self.count
        if np.any(middle):
            out = out - np.outer(mean, middle) - np.outer(middle, mean) + np.outer(middle, middle)
        return out if np.all(width == 1) else out / np.outer(width, width)


def _moments(channels: int) -> type[np.floating[Any]]:
    return np.float32 if channels > WIDE else np.float64


def int8(model: Model, folder: Path, source: Artifact, sample: Sample, tuning: Tuning | None = None) -> None:
    """Quantize every weight multiplication and the word embeddings; ``tuning`` leaves some out, or treats them otherwise.

    Raises:
        ArtifactProblem: when the export holds no weight multiplication.
    """
    from qguard.precisions.embeddings import quantize_embeddings

    assert source.file is not None
    graph = Graph.read(source.file)
    if model.onnx is None:  # another exporter's file may hold operators that mean something else in a later set
        standard_attention(graph)
    rewrite(graph, model, source, sample, tuning=tuning)
    quantize_embeddings(graph)
    axes_as_inputs(graph)
    graph.drop_unread(MOVES)
    target = onnx_file(model, folder)
    graph.save(target)
    declare_exact_products(target)


Form = Callable[["QuantizedInput", "Treated"], list[Any]]  # the nodes that stand for a site


def rewrite(
    graph: Graph,
    model: Model,
    source: Artifact,
    sample: Sample,
    integer: Form | None = None,
    tuning: Tuning | None = None,
) -> None:
    """Quantize every weight multiplication of a graph, in place.

    Args:
        graph: fp32.
        model: The fp32 model.
        source: Its artifact, which the calibration texts run through.
        sample: The calibration texts.
        integer: See :func:`quantize`.
        tuning: The project's own settings.

    Raises:
        ArtifactProblem: when the graph holds no weight multiplication, or all of them are left out.
    """
    assert source.file is not None
    plain_products(graph)
    sites = find_sites(graph)
    if not sites:
        raise ArtifactProblem("the fp32 export holds no weight multiplication")
    tuning = tuning or Tuning()
    if tuning.exclude:
        sites = [part for s in sites if (part := s.without(tuning)) is not None]
        if not sites:
            raise ArtifactProblem(f"exclude = {list(tuning.exclude)} leaves every weight multiplication in float")
    by_text = folded.reached(graph)
    fixed = {p.out for s in sites if s.x not in by_text for p in s.products}
    sites = [s for s in sites if s.x in by_text]
    observer = Observer(source.file, {*(s.x for s in sites), *fixed}, token_ids(model, sample), source.feeding)
    if fixed:
        folded.store(graph, observer.values(fixed))
    plans = PLANS
    if massive(sites, observer):
        plans = MASSIVE_PLANS
        observer.ids.extend(filter(None, token_ids(model, replace(sample, texts=("",), roles=(None,)))))
    quantize(graph, sites, observer, tuning.plans(plans), integer)
    del observer
    release()  # the session


def token_ids(model: Model, sample: Sample) -> list[list[int]]:
    """The sample's token ids, longest first; texts without a token are left out."""
    from qguard.encoders.tokenizer import TextTokenizer
    from qguard.precisions.calibration import inputs_of

    ids = TextTokenizer.open(model.root, model.pipeline)(*inputs_of(sample, model.pipeline))
    return sorted(filter(None, ids), key=len, reverse=True)


@dataclass(frozen=True)
class Product:
    """One multiplication with a constant weight: a MatMul, or the packed one inside a fused Attention.

    Attributes:
        node: The operator.
        after: The Add of its bias, or ``None``.
        width: Output channels.
        stored: Names of its weight and its bias, the latter empty where it has none.
    """

    node: Any
    after: Any
    width: int
    stored: tuple[str, str]

    @property
    def out(self) -> str:
        """Where its sum goes."""
        return str((self.after or self.node).output[0])

    @property
    def name(self) -> str:
        """The operator's, or that of its output: some exporters leave operators without one."""
        return str(self.node.name or self.node.output[0])

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called in reports, and in the file."""
        return readable(self.node, self.stored[0]), self.name, self.stored[0]

    @property
    def packed(self) -> bool:
        """Whether it is the one inside a fused Attention."""
        return bool(self.node.op_type == "Attention")


@dataclass(frozen=True)
class QuantizedInput:
    """What is quantized once, and all that multiplies it: ``x`` (…, in) times ``weight`` (in, out), plus ``bias`` (out,).

    The output channels are those of ``products`` one after the other: query, key and value read one tensor, and treated
    alone each would want it narrowed in its own way.
    """

    products: tuple[Product, ...]
    x: str
    made_by: str
    graph: Graph = field(repr=False)

    def without(self, tuning: Tuning) -> QuantizedInput | None:
        """The same without the products that stay in float; ``None`` where all do."""
        kept = tuple(p for p in self.products if not tuning.excludes(p.names))
        return replace(self, products=kept) if kept else None

    @property
    def channels(self) -> int:
        """Of the input."""
        return int(self.graph.initializers[self.products[0].stored[0]].dims[0])

    @property
    def weight(self) -> Array:
        """float64 (in, out), read anew from the graph: all weights at once may not fit in memory."""
        return np.concatenate([self.graph.array(p.stored[0]).astype(np.float64) for p in self.products], axis=1)

    @property
    def bias(self) -> Array:
        """float64 (out,)."""
        parts = (self.graph.array(p.stored[1]).astype(np.float64) if p.stored[1] else np.zeros(p.width) for p in self.products)
        return np.concatenate(list(parts))

    @property
    def home(self) -> str:
        """What the names of its nodes begin with."""
        return self.products[0].name

    @property
    def stored(self) -> tuple[tuple[str, str], ...]:
        """What it multiplies with, by name: layers that share their weights are quantized alike and stored once."""
        return tuple(p.stored for p in self.products)


def find_sites(graph: Graph) -> list[QuantizedInput]:
    """Every Attention and MatMul of the graph with a constant weight, by what they multiply."""
    tables = graph.initializers
    # what adds a stored vector to what nothing else reads, by what it adds it to
    adds = {
        x: (node, bias)
        for node in graph.nodes
        if node.op_type == "Add"
        for x, bias in (node.input, reversed(node.input))
        if len(graph.consumers(x)) == 1 and bias in tables and len(tables[bias].dims) == 1
    }
    found: dict[str, list[Product]] = defaultdict(list)
    for node in graph.nodes:
        if node.op_type not in ("Attention", "MatMul") or node.input[1] not in tables or node.input[0] in tables:
            continue
        dims = tables[node.input[1]].dims
        if len(dims) != 2:
            continue
        width, after, bias = int(dims[1]), None, ""
        if node.op_type == "Attention":
            bias = node.input[2]
        elif node.output[0] in adds and list(tables[adds[node.output[0]][1]].dims) == [width]:
            after, bias = adds[node.output[0]]
        found[node.input[0]].append(Product(node, after, width, (node.input[1], bias)))
    sites = []
    for x, products in found.items():
        kind = NORM if products[0].packed else made_by(graph, x)
        sites.append(QuantizedInput(tuple(products), x, kind, graph))
    return sites


class Observer:
    """The fp32 file on the calibration texts: gathers what its inner tensors hold; padding is left out.

    Args:
        file: fp32.
        names: Inner tensors, float with the channels on their last axis.
        ids: Token ids of the texts.
        feeding: What the file does not say of its inputs.
    """

    def __init__(self, file: Path, names: Iterable[str], ids: list[list[int]], feeding: Feeding | None = None) -> None:
        import onnxruntime as ort

        from qguard.encoders.feeds import Feeds
        from qguard.encoders.ports import of_session

        self.ids = ids
        graph = Graph.read(file)
        graph.add_outputs(sorted(set(names)))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        self._session = graph.session(options)
        self._feeds = Feeds(of_session(self._session.get_inputs()), file, feeding)

    def _batches(self, ids: list[list[int]], channels: int) -> Iterator[tuple[tuple[Array, ...], Array]]:
        """Padded token ids, masks and, of pairs, token type ids, with tensors of at most :data:`OUTPUTS` bytes where texts are
        that short; and which of them are tokens of a text: those that fill a query up are, whether the network attends to them
        or not.
        """
        from qguard.encoders import padded

        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            batch = padded(part)
            own = np.arange(batch[0].shape[1]) < np.asarray([[len(row)] for row in part])
            rows = max(1, OUTPUTS // (4 * channels * batch[0].shape[1]))
            for first in range(0, len(part), rows):
                some = slice(first, first + rows)
                yield tuple(values[some] for values in batch), own[some]

    def __call__(self, names: Collection[str], channels: int = 1) -> dict[str, Statistics]:
        """Of some of the tensors, which have so many channels together; the texts are run up to the last of them."""
        found = dict[str, Statistics]()
        for name, tokens in self._tokens(names, self.ids, channels):
            found.setdefault(name, Statistics.empty(tokens.shape[1])).add(tokens)
        return found

    def values(self, names: Collection[str]) -> dict[str, Array]:
        """What some of the tensors hold, which no text changes."""
        batch, _ = next(self._batches(self.ids[-1:], 1))
        return dict(zip(names, self._session.run(list(names), self._feeds(*batch)), strict=True))

    def reaches(self, names: Collection[str], channels: int, texts: int) -> dict[str, Array]:
        """The greatest absolute value of each channel of some of the tensors, on about so many texts of all lengths."""
        found = dict[str, Array]()
        for name, tokens in self._tokens(names, self.ids[:: max(1, len(self.ids) // texts)], channels):
            reach = np.abs(tokens).max(0)
            found[name] = np.maximum(found.get(name, reach), reach)
        return found

    def _tokens(self, names: Collection[str], ids: list[list[int]], channels: int) -> Iterator[tuple[str, Array]]:
        """Name and values (tokens, channels) of each tensor, a batch of texts at a time."""
        import onnxruntime as ort

        names = sorted(set(names))
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        for batch, own in self._batches(ids, channels):
            for name, value in zip(names, self._session.run(names, self._feeds(*batch), options), strict=True):
                # what has no row for each token, such as relative positions or a head behind pooling, has no padding either
                by_token = value.ndim == 3 and value.shape[:2] == own.shape
                yield name, value[own] if by_token else value.reshape(-1, value.shape[-1])

    def in_groups(self, wanted: Iterable[tuple[Collection[str], int]]) -> Iterator[dict[str, Statistics]]:
        """What is known of the tensors of each entry in turn; second moments of at most :data:`MOMENTS` bytes are held at once.

        Args:
            wanted: Names of one or more tensors, and how many channels each has.
        """
        entries = [
            (names, len(set(names)) * channels, len(set(names)) * channels**2 * np.dtype(_moments(channels)).itemsize)
            for names, channels in wanted
        ]
        while entries:
            sizes = np.cumsum([size for *_, size in entries])
            count = max(1, int(np.searchsorted(sizes, MOMENTS, side="right")))
            seen = self([name for names, *_ in entries[:count] for name in names], sum(c for _, c, _ in entries[:count]))
            for names, *_ in entries[:count]:
                yield {name: seen[name] for name in names}
            del seen, entries[:count]


def massive(sites: Iterable[QuantizedInput], observer: Observer) -> bool:
    """Whether a model has massive activations (Sun et al. 2024): in some layers one channel holds almost all there is.

    In such a model a few tokens serve as places to look at when there is nothing to see, and what they hold has little to do
    with what other tokens hold, or with what they hold in another text: ranges taken from calibration texts do not last.
    """
    plan = PLANS[""][0]
    names = {s.x: s.channels for s in sites if s.made_by == ""}
    if not names:
        return False
    found = observer.reaches(names, sum(names.values()), FEW)
    return any(np.max(r) > MASSIVE * np.sort(r)[-1 - in_float(plan, len(r))] for r in found.values())


def quantize(
    graph: Graph,
    sites: list[QuantizedInput],
    observer: Observer,
    plans: Mapping[str, tuple[Plan, ...]] = PLANS,
    integer: Form | None = None,
) -> None:
    """Replace each site by its integer form, in place, by what made its input: one of ``plans``.

    Args:
        graph: The graph.
        sites: All of its products with weights that are quantized.
        observer: The activations.
        plans: By what made an input, how it may be treated.
        integer: The nodes that stand for a site.
    """
    alike: dict[tuple[tuple[str, str], ...], list[QuantizedInput]] = defaultdict(list)
    for site in sites:
        alike[site.stored].append(site)
    seen = observer.in_groups(([s.x for s in some], some[0].channels) for some in alike.values())
    made_by_channel = _by_channel(graph, [some[0] for some in alike.values() if len(some) == 1])
    treated, chosen_channels = dict[tuple[tuple[str, str], ...], Treated](), dict[str, Array]()
    apart = dict[str, tuple[Made, Array]]()
    for (key, some), found in zip(alike.items(), seen, strict=True):
        statistics = Statistics.sum(found[s.x] for s in some)
        made = made_by_channel.get(some[0].x)
        treated[key], outliers = _treated(graph, some[0], statistics, plans[some[0].made_by], made)
        if made is not None and treated[key].made is not None:
            chosen_channels |= dict.fromkeys(made.sources, outliers)
            apart[made.x] = made, outliers
    for key, some in alike.items():
        treated[key] = treated[key].split(graph, some[0], chosen_channels)
    first = {
        site.products[0].node.output[0]: (site, treated[key].copied(graph, nth) if nth else treated[key])
        for key, some in alike.items()
        for nth, site in enumerate(some)
    }
    replaced = {node.output[0] for site in sites for p in site.products for node in (p.node, p.after) if node is not None}

    stands_for = integer or _integer

    def rewritten(node: Any) -> list[Any] | None:
        if site := first.get(node.output[0]):
            return stands_for(*site)
        return [] if node.output[0] in replaced else None

    graph.rewrite(rewritten)
    note(graph, apart)
    del graph.model.graph.value_info[:]  # shapes of what has fewer channels now


def _by_channel(graph: Graph, sites: list[QuantizedInput]) -> dict[str, Made]:
    """By input how it is made of the products of other sites, where these can be split for it."""
    single = {p.out for s in sites for p in s.products if not p.packed}
    wanted = {s.x: [p.node for p in s.products] for s in sites if s.made_by == "" and not any(p.packed for p in s.products)}
    return chains(graph, wanted, single)


@dataclass(frozen=True)
class Stored:
    """Names of the stored tensors of one product in integers, or of some of its outputs.

    Attributes:
        weight, scale, zero, bias: As :func:`_integer` multiplies with them; ``bias`` is empty without one.
        wide: The weights of the channels in float, or empty.
        of: Which product of the site.
        tail: Behind the names of its nodes and of its output.
    """

    weight: str
    scale: str
    zero: str
    bias: str
    wide: str
    of: int
    tail: str = ""


@dataclass(frozen=True)
class Treated:
    """Names of the stored tensors of a site in integers.

    Attributes:
        moved: Factor and offset of each channel, where the plan moves or narrows them.
        scales: Scale and zero point of the input.
        outliers: Indices of the channels that are multiplied in float, or empty.
        products: Of each product.
        tokens: Where each token has a scale of its own: what its widest value is multiplied with, the least and the greatest
            scale, and a name for its least value where both signs count; else empty.
        made: How the input is made, where the channels in float are made apart; then ``outliers`` is empty.
    """

    moved: tuple[str, ...]
    scales: tuple[str, str]
    outliers: str
    products: tuple[Stored, ...]
    tokens: tuple[str, ...]
    made: Made | None = None

    def split(self, graph: Graph, site: QuantizedInput, channels: Mapping[str, Array]) -> Treated:
        """The same, with the outputs that another site multiplies in float apart from the others.

        Args:
            graph: Where the tensors are stored.
            site: What is treated.
            channels: Output of a product → indices of those outputs.
        """
        products = []
        for stored in self.products:
            outliers = channels.get(site.products[stored.of].out)
            if outliers is None:
                products.append(stored)
                continue
            inner = np.setdiff1d(np.arange(site.products[stored.of].width), outliers)
            parts = []
            for tail, at in ((OUTLIERS, outliers), ("", inner)):  # the second takes the place of the whole

                def cut(name: str, at: Array = at, tail: str = tail) -> str:
                    return graph.put(f"{name}{tail}", graph.array(name)[..., at]) if name else ""

                weight, scale, zero = cut(stored.weight), cut(stored.scale), cut(stored.zero)
                parts.append(Stored(weight, scale, zero, cut(stored.bias), cut(stored.wide), stored.of, tail))
            products += parts[::-1]
        return replace(self, products=tuple(products))

    def copied(self, graph: Graph, nth: int) -> Treated:
        """The same for another layer that shares the weights, under a name of its own.

        With the session option of :func:`declare_exact_products`, ONNX Runtime makes signed weights and zero points unsigned once
        for each reader, and does not load a file in which several operators read one tensor (1.32, findings/). Unsigned ones
        would load, and take twice as long on processors with VNNI.
        """
        products = tuple(
            replace(p, weight=graph.again(p.weight, f"{p.weight}_{nth}"), zero=graph.again(p.zero, f"{p.zero}_{nth}"))
            for p in self.products
        )
        return replace(self, products=products)


def _treated(
    graph: Graph, site: QuantizedInput, seen: Statistics, plans: Sequence[Plan], made: Made | None = None
) -> tuple[Treated, Array]:
    """Store a site's tensors in integers.

    Returns:
        Their names, and the indices of the channels in float. Where these can be made apart (``made``), the integer product has
        only the others.
    """
    home, weight = site.home, site.weight
    plan = chosen(weight, seen, for_width(plans, len(weight)))
    middle, width, outliers = treatment(weight, seen, plan)
    low, high = (seen.low - middle) / width, (seen.high - middle) / width
    inner = np.setdiff1d(np.arange(len(width)), outliers)
    span = float(low[inner].min()), float(high[inner].max())
    scale, zero = activation_range(*span)
    values, weight_scale = round_weights(weight * width[:, None], seen.hessian(middle, width), inner)
    bias = (site.bias + middle @ weight).astype(np.float32)
    moved: tuple[str, ...] = ()
    if plan.shift or plan.smooth is not None:
        moved = (
            graph.put(f"{home}/factor", (1 / width).astype(np.float32)),
            graph.put(f"{home}/offset", (-middle / width).astype(np.float32)),
        )
    tokens: tuple[str, ...] = ()
    if plan.token:
        share, zero, least, most = token_range(*span, float(np.median(high[inner])))
        limits = {"share": share, "least": least, "most": most}
        tokens = tuple(graph.put(f"{home}/token_{name}", np.array(value, np.float32)) for name, value in limits.items())
        tokens += (f"{home}/token_low",) if zero == MIDDLE else ()
        scale = 1.0  # of what was divided by its token's
    scales = (
        graph.put(f"{home}/x_scale", np.array([scale], np.float32)),
        graph.put(f"{home}/x_zero", np.array([zero], np.uint8)),
    )
    made = made if len(outliers) and not plan.token else None
    # gathered, these channels are in the integer product as well: there they saturate and meet weights of zero
    index = graph.put(f"{home}/outliers", outliers.astype(np.int64)) if len(outliers) and made is None else ""
    values = values if made is None else values[inner]
    start, products = 0, []
    for number, product in enumerate(site.products):
        at = slice(start, start := start + product.width)
        name = product.name
        products.append(
            Stored(
                graph.put(f"{name}/weight", values[:, at]),
                graph.put(f"{name}/weight_scale", weight_scale[at]),
                graph.put(f"{name}/weight_zero", np.zeros(product.width, values.dtype)),
                graph.put(f"{name}/bias", bias[at]) if bias[at].any() or product.packed else "",
                graph.put(f"{name}/outlier_weight", weight[outliers, at].astype(np.float32)) if len(outliers) else "",
                number,
            )
        )
    return Treated(moved, scales, index, tuple(products), tokens, made), outliers


def _integer(site: QuantizedInput, treated: Treated) -> list[Any]:
    """The nodes that stand for a site in ONNX Runtime."""
    from onnx import helper

    home, scales = site.home, treated.scales
    nodes = quantized_input(site, treated)
    in_float, more = outlier_channels(site, treated)
    nodes += more
    for stored in treated.products:
        product, scale, zero, bias, wide = site.products[stored.of], stored.scale, stored.zero, stored.bias, stored.wide
        name, out, node = f"{product.name}{stored.tail}", f"{product.out}{stored.tail}", product.node
        if product.packed:
            inputs = [f"{home}/x", stored.weight, bias, scales[0], scale, node.input[3], scales[1], zero]
            nodes.append(helper.make_node("QAttention", inputs, [product.out], name, domain="com.microsoft", **attributes(node)))
            continue
        whole = f"{name}/product" if wide else out
        inputs = [f"{home}/x", stored.weight, scales[0], scale, scales[1], zero]
        if treated.tokens:
            units, scaled = f"{name}/units", f"{name}/scaled" if bias else whole
            nodes += [
                helper.make_node("MatMulIntegerToFloat", inputs, [units], name, domain="com.microsoft"),
                helper.make_node("Mul", [units, f"{home}/token_scale"], [scaled], f"{name}/Scale"),
            ]
            nodes += [helper.make_node("Add", [scaled, bias], [whole], f"{name}/Bias")] if bias else []
        else:
            inputs += [bias] if bias else []
            nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [whole], name, domain="com.microsoft"))
        if wide:
            nodes += [
                helper.make_node("MatMul", [in_float, wide], [f"{name}/wide_product"], f"{name}/Outliers"),
                helper.make_node("Add", [whole, f"{name}/wide_product"], [out], f"{name}/Join"),
            ]
    return nodes


def standard(site: QuantizedInput, treated: Treated) -> list[Any]:
    """The nodes that stand for a site in ONNX's own operators, which other runtimes join to integer products."""
    from onnx import helper

    home = site.home
    in_float, more = outlier_channels(site, treated)
    back = helper.make_node("DequantizeLinear", [f"{home}/x", *treated.scales], [f"{home}/back"], f"{home}/Dequantize")
    nodes = [*quantized_input(site, treated), back, *more]
    for stored in treated.products:
        product = site.products[stored.of]
        name, out = f"{product.name}{stored.tail}", f"{product.out}{stored.tail}"
        weight, last = f"{name}/dequantized", f"{name}/units"
        stages = [
            ("MatMul", f"{home}/back", weight, name),
            *([("Mul", "", f"{home}/token_scale", f"{name}/Scale")] if treated.tokens else []),
            *([("Add", "", stored.bias, f"{name}/Bias")] if stored.bias else []),
            *([("Add", "", f"{name}/wide_product", f"{name}/Join")] if stored.wide else []),
        ]
        parts = [stored.weight, stored.scale, stored.zero]
        nodes.append(helper.make_node("DequantizeLinear", parts, [weight], f"{name}/Weight", axis=1))
        if stored.wide:
            nodes.append(helper.make_node("MatMul", [in_float, stored.wide], [f"{name}/wide_product"], f"{name}/Outliers"))
        for number, (operator, left, right, called) in enumerate(stages, 1):
            into = out if number == len(stages) else f"{name}/stage{number}"
            nodes.append(helper.make_node(operator, [left or last, right], [into], called))
            last = into
    return nodes


def quantized_input(site: QuantizedInput, treated: Treated) -> list[Any]:
    """The nodes that make the integers of a site's input, ``HOME/x``."""
    from onnx import helper

    home, x = site.home, site.x
    nodes: list[Any] = []
    if treated.moved:
        # two steps over a narrow tensor; ONNX Runtime has no QuantizeLinear of that speed with a scale per channel
        narrowed, moved = f"{home}/narrowed", f"{home}/moved"
        factor, offset = treated.moved
        nodes += [
            helper.make_node("Mul", [x, factor], [narrowed], f"{home}/Narrow"),
            helper.make_node("Add", [narrowed, offset], [moved], f"{home}/Move"),
        ]
        x = moved
    if treated.tokens:
        nodes += _by_token(x, home, *treated.tokens)
        x = f"{home}/divided"
    return [*nodes, helper.make_node("QuantizeLinear", [x, *treated.scales], [f"{home}/x"], f"{home}/Quantize")]


def outlier_channels(site: QuantizedInput, treated: Treated) -> tuple[str, list[Any]]:
    """The tensor of the channels that are multiplied in float, and the nodes that make it; empty where there are none."""
    from onnx import helper

    if treated.made is not None:
        return f"{site.x}{OUTLIERS}", treated.made.again()
    if not treated.outliers:
        return "", []
    wide = f"{site.home}/wide"
    return wide, [helper.make_node("Gather", [site.x, treated.outliers], [wide], f"{site.home}/Gather", axis=-1)]


def _by_token(x: str, home: str, share: str, least: str, most: str, low: str = "") -> list[Any]:
    """The scale of each token, and its values in that unit. Of the token alone: its neighbors in the batch change nothing."""
    from onnx import helper

    peak = f"{home}/token_high"
    nodes = [helper.make_node("ReduceMax", [x], [peak], f"{home}/High", axes=[-1])]
    if low:
        nodes += [
            helper.make_node("ReduceMin", [x], [low], f"{home}/Low", axes=[-1]),
            helper.make_node("Neg", [low], [f"{low}/negative"], f"{home}/Negative"),
            helper.make_node("Max", [peak, f"{low}/negative"], [f"{home}/token_peak"], f"{home}/Peak"),
        ]
        peak = f"{home}/token_peak"
    return [
        *nodes,
        helper.make_node("Mul", [peak, share], [f"{home}/token_shared"], f"{home}/Share"),
        helper.make_node("Clip", [f"{home}/token_shared", least, most], [f"{home}/token_scale"], f"{home}/Limit"),
        helper.make_node("Div", [x, f"{home}/token_scale"], [f"{home}/divided"], f"{home}/Divide"),
    ]


def for_width(plans: Sequence[Plan], channels: int) -> list[Plan]:
    """The plans for an input of so many channels, cheapest first.

    Channels in float cost a narrow input more than a wide one: with 64 of 512, MobileBERT takes 1.4 times as long as with none.
    A narrow input has :data:`FEWER`, and more than none only where they pay (:data:`GAIN`). Where some channels are far wider
    than the others, the first four take away most of the error: in the first four of MiniLM's six layers 82 % to 94 %.
    """
    if channels >= NARROW:
        return list(plans)
    few = ([replace(p, outliers=n) for n in FEWER] if p.outliers > max(FEWER) else [p] for p in plans)
    return [plan for some in few for plan in some]


def chosen(weight: Array, seen: Statistics, plans: Sequence[Plan]) -> Plan:
    """The cheapest plan that no dearer one beats by :data:`GAIN`."""
    best, least = plans[0], expected_error(weight, seen, plans[0])
    for plan in plans[1:]:
        error = expected_error(weight, seen, plan)
        if error <= GAIN * least:
            best, least = plan, error
    return best


def expected_error(weight: Array, seen: Statistics, plan: Plan) -> float:
    """Mean squared error of a token's outputs, summed over them: of rounding inputs, and of rounding weights to nearest.

    Rounding in steps of s errs by s^2 / 12 in the mean, each value by itself. GPTQ makes up for a part of the second.

    Args:
        weight: (in, out).
        seen: Of the input.
        plan: What is done.
    """
    middle, width, outliers = treatment(weight, seen, plan)
    inner = np.setdiff1d(np.arange(len(width)), outliers)
    low, high = ((bound - middle)[inner] / width[inner] for bound in (seen.low, seen.high))
    step, _ = activation_range(float(low.min()), float(high.max()))
    widened = weight[inner] * width[inner, None]
    steps = np.abs(widened).max(0) / 127
    mean, second = seen.total / seen.count, np.diag(seen.moments) / seen.count
    energy = ((second - 2 * mean * middle + middle**2)[inner] / width[inner] ** 2).sum()
    return float((step**2 * (widened**2).sum() + energy * (steps**2).sum()) / 12)


def treatment(weight: Array, seen: Statistics, plan: Plan) -> tuple[Array, Array, Array]:
    """Middle and width (in,) of each channel, and the channels that stay in float.

    Args:
        weight: (in, out).
        seen: Of the input.
        plan: What is done.
    """
    middle = (seen.low + seen.high) / 2 if plan.shift else np.zeros(len(weight))
    reach = np.maximum(np.abs(seen.low - middle), np.abs(seen.high - middle)).clip(1e-5)
    width = np.ones(len(weight))
    if plan.smooth is not None:
        width = reach**plan.smooth / np.abs(weight).max(1).clip(1e-5) ** (1 - plan.smooth)
        width /= np.exp(np.log(width).mean())
    wide = np.argsort(-reach, kind="stable")[: in_float(plan, len(width))]
    middle[wide] = 0.0  # they are multiplied as they are
    return middle, width, np.sort(wide)


def in_float(plan: Plan, channels: int) -> int:
    """How many of an input's channels are multiplied in float."""
    return min(plan.outliers, int(SHARE * channels))


def activation_range(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of unsigned 8 bits that hold [low, high] and zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def token_range(low: float, high: float, usual: float) -> tuple[float, int, float, float]:
    """How a token's widest value becomes its scale.

    Values that are hardly ever negative, such as GELU's, keep few of the 256 steps for that side. The channels that are
    multiplied in float count as well: the greatest scale keeps a token that is wide in these alone near the others' range.

    Args:
        low, high: Of all calibration tokens.
        usual: The greatest value of a channel of the middle, over all calibration tokens.

    Returns:
        What the widest value is multiplied with, the zero point, the least and the greatest scale.
    """
    if -low > ONE_SIDED * high:
        return 1 / (255 - MIDDLE), MIDDLE, 1e-12, HEADROOM * max(high, -low) / (255 - MIDDLE)
    zero = max(1, round(255 * -low / (usual - low))) if low < 0 else 0
    share = 1 / (255 - zero)
    least = max(-low / zero if zero else 0.0, 1e-12)
    return share, zero, least, max(least, HEADROOM * high * share)
