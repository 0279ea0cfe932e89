"""Faults: known real-world failures of quantized, stored or served models, reproduced in the user's own model.

A new fault is one function in its family's file and one line in :data:`_ALL`; another package adds one through the entry-point
group ``qguard.faults``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qguard.encoders.runtimes import NO_FILES, TEXTS
from qguard.families import FAMILIES
from qguard.faults.site import NotApplicable
from qguard.registry import Registry, function_of, is_function

if TYPE_CHECKING:
    from qguard.faults.judging import Failure
    from qguard.faults.site import Candidate, FaultSite


# the families that compare the outputs of other kinds of models than embedders
_IN_PLACE = {"embedding": ("weights", "score", "tokens"), "similarity": ("score",), "ranking": ("order", "score")}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, in several degrees.

    Attributes:
        name: Stable, in kebab case.
        what: What goes wrong, in one line.
        expected: What should catch it, at full severity at the latest: ``golden`` (the current golden, the token ids and the
            settings of the artifact), a metric family, or one of its metrics, such as ``artifact.wrong_rows``; after a colon,
            words of the error, such as ``golden: padding_side``.
        seen: The report of a real case; empty for faults such as bit rot.
        make: The function, or its name as ``module:function``. It takes a :class:`~qguard.faults.site.FaultSite` and the value
            of a severity. A module name without a dot is a module of this package.
        severities: Label → value, from the smallest fault to the full fault, which every gate should catch.
        needs: What the fault changes: ``files`` of the artifact, or ``tokens`` that go to the runtime. A fault that needs
            neither, such as a damaged golden, also applies to a runtime that keeps the model or takes texts.
    """

    name: str
    what: str = ""
    expected: str = ""
    seen: str = ""
    make: Callable[..., Candidate] | str = ""
    severities: Mapping[str, Any] = field(default_factory=lambda: {"full": None})
    needs: tuple[str, ...] = ("files",)

    def lacks(self) -> Iterable[str]:
        """See :class:`qguard.registry.Record`."""
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            yield f"its name is {self.name!r}; expected words in lower case, joined by hyphens"
        if not self.what:
            yield "it does not say what goes wrong (what)"
        if self.part not in ("golden", *FAMILIES):
            yield f"no part of the gate should catch it (expected={self.expected!r}; known: golden, {', '.join(FAMILIES)})"
        if not is_function(self.make):
            yield f"it does not say how it is made: expected a function or 'module:function', found {self.make!r}"
        if not self.severities:
            yield "it has no severities"
        if strange := sorted(set(self.needs) - {"files", "tokens"}):
            yield f"it needs {', '.join(strange)}; expected files, tokens, or nothing"

    @property
    def part(self) -> str:
        """The part of the gate that should catch it."""
        return self.expected.partition(":")[0].partition(".")[0]

    def told_by(self, failure: Failure) -> bool:
        """Whether a failure is the one that :attr:`expected` means."""
        check, _, words = self.expected.partition(": ")
        if words or check == self.part:
            return failure.gate in (self.part, *_IN_PLACE.get(self.part, ())) and words in failure.words
        own, what = self.part, check.removeprefix(self.part)
        return failure.check.partition("[")[0] in (check, *(f"{family}{what}" for family in _IN_PLACE.get(own, ())))

    @property
    def full(self) -> str:
        """The largest severity."""
        return list(self.severities)[-1]

    def inject(self, site: FaultSite, severity: str) -> Candidate:
        """Real files, or a real runtime, with the fault in them.

        Args:
            site: The sound artifact and an empty folder to work in.
            severity: A key of :attr:`severities`.

        Raises:
            NotApplicable: where this model or precision cannot have the fault; the message says why.
        """
        record = site.precision.runs_in
        if "files" in self.needs and record.files == NO_FILES:
            raise NotApplicable(f"runtime {record.name} keeps the model: there are no files to change")
        if "tokens" in self.needs and record.takes == TEXTS:
            raise NotApplicable(f"runtime {record.name} takes texts: there are no token ids to change")
        named = self.make
        if isinstance(named, str) and "." not in named:  # of this package
            named = f"{__name__}.{named}"
        made: Candidate = function_of(named)(site, self.severities[severity])
        return made


_ALL = (
    # what the file holds
    Fault("scale-wrong", "the scale of a layer's weights is doubled", "embedding", "", "weights:scale",
          {"1 channel": (1, 1), "a tenth of a layer": (0.1, 1), "1 layer": (1.0, 1), "every layer": (1.0, 0)}),
    Fault("zero-point-wrong", "the zero point of a layer's weights is off", "artifact.weight_error", "", "weights:zero_point",
          {"1 channel by 32": (1, 32), "1 layer by 2": (1.0, 2), "1 layer by 32": (1.0, 32)}),
    Fault("weight-bits-flipped", "bits of the stored weights are flipped", "artifact.weight_error", "", "weights:flip_bits",
          {"1 bit": 1, "100 bits": 100, "1 byte in 1000": 0.001, "1 byte in 50": 0.02}),
    Fault("head-zeroed", "attention heads return zero", "embedding", "", "weights:zero_heads",
          {"1 head": (1, 1), "1 head of each layer": (1, 0), "1 layer": (0, 1), "every layer": (0, 0)}),
    Fault("embedding-rows-swapped", "rows of the word embeddings are swapped", "artifact.wrong_rows", "", "rows:swapped",
          {"2 words of no text": "unused", "2 rare words": "rare", "2 common words": "common", "every word with the next": "all",
           "the whole table reversed": "reversed"}),
    Fault("embedding-rows-zeroed", "rows of the word embeddings are zero", "artifact.wrong_rows", "", "rows:zeroed",
          {"1 word of no text": "unused", "1 word in 100": 100, "every word": 1}),
    Fault("embedding-rows-foreign", "rows of the word embeddings are another model's", "artifact.wrong_rows", "", "rows:foreign",
          {"1 word of no text": "unused", "1 word in 100": 100, "every word": 1}),
    Fault("number-not-finite", "a stored number is NaN", "artifact.nonfinite", "", "rows:not_finite",
          {"1 word of no text": "word", "1 channel of a layer": "channel"}),
    Fault("weights-of-another-revision", "the weights are not those that the golden was recorded from", "embedding", "",
          "weights:noise", {"1 % noise": 0.01, "4 % noise": 0.04, "20 % noise": 0.2, "unrelated": None}),
    Fault("granularity-lost", "one scale for a whole matrix instead of one per output channel", "artifact",
          "onnxruntime#12072, #21000", "recipe:per_tensor",
          {"1 layer": (1, False), "every layer": (0, False), "every layer, written per channel": (0, True)}),
    Fault("quantized-in-name-only", "the file computes in fp32", "artifact.quantized_ops", "quant-regress", "recipe:no_op",
          {"1 layer": True, "the fp32 file": False}),
    Fault("opset-too-old", "the declared operator set supports only one scale per tensor", "artifact.opset",
          "neural-compressor#819", "graph:opset", {"opset 10": 10}),
    # how it was calibrated
    Fault("calibrated-on-few-texts", "activation ranges and rounding come from too few texts", "ranking", "", "recipe:few_texts",
          {"100 texts": 100, "10 texts": 10, "1 text": 1}),
    Fault("calibrated-on-foreign-texts", "the calibration texts are unlike any that users write", "ranking", "pytorch#45185",
          "recipe:foreign_texts", {"numbers and random words": "mixed", "random words": "words", "numbers": "digits"}),
    Fault("range-clipped", "activation ranges are too narrow, as after percentile calibration", "embedding",
          "onnxruntime#10571", "ranges:narrow",
          {"1 layer, a half": (1, 2), "every layer, a half": (0, 2), "every layer, an eighth": (0, 8)}),
    Fault("mask-sentinel-in-range", "calibration included the mask's sentinel value", "artifact.activation_range", "Olive#1597",
          "ranges:sentinel", {"-10000 in 1 layer": (1, 1e4), "-3.4e38 in every layer": (0, 3.4e38)}),
    Fault("range-of-the-batch", "activation ranges come from the batch, so other texts in it move a vector", "invariance",
          "onnxruntime#10111, #8625", "ranges:dynamic",
          {"1 layer": 1, "every layer": 0}),
    # how the graph computes
    Fault("mask-dropped", "attention sees padding", "invariance", "text-embeddings-inference#882", "graph:drop_mask",
          {"1 layer": 1, "every layer": 0}),
    Fault("layer-norm-changed", "a fusion changes LayerNorm", "embedding", "onnxruntime#17689", "graph:layer_norm",
          {"epsilon 1e-5": ("epsilon", 1e-5), "epsilon 0.01": ("epsilon", 0.01), "epsilon 1": ("epsilon", 1.0),
           "weights left out": ("weight", 0)}),
    Fault("gelu-changed", "a fusion replaces GELU", "embedding", "onnxruntime#11576", "graph:gelu",
          {"the tanh form": "FastGelu", "the sigmoid form": "QuickGelu", "ReLU": "Relu"}),
    Fault("layers-removed", "the last layers are removed: the model is fast and wrong", "embedding", "pytorch#127402",
          "graph:remove_layers", {"the last layer": 1, "the last half": 0.5}),
    Fault("layers-swapped", "layers have each other's weights", "embedding", "", "layers:swapped",
          {"1 matrix": "matrix", "2 neighbors": "two", "all in reverse order": "all"}),
    Fault("positions-exchanged", "two positions that only the longest texts reach are exchanged", "artifact.wrong_rows", "",
          "positions:exchanged"),
    Fault("positions-shifted", "texts do not begin at the model's first position", "embedding", "", "positions:shifted",
          {"by 1": 1, "by 2": 2}),
    Fault("output-wrong", "the output is the hidden state of another layer", "embedding", "", "output:wrong",
          {"the layer before the last": 1, "what goes into the first layer": 0}),
    Fault("output-unnamed", "several outputs could be the embedding, and the first one is not",
          "artifact: could be the embedding", "", "output:several"),
    Fault("vectors-scaled", "vectors are longer or shorter than the model's, which ranks by them", "similarity", "",
          "output:scaled", {"1.01 times": 1.01, "1.1 times": 1.1, "half": 0.5}),
    Fault("overflow", "values beyond 16-bit floats become infinite", "embedding", "onnxruntime#32600", "graph:overflow",
          {"1 text in 100": 0.01, "1 text in 10": 0.1, "every text": 1.0}),
    Fault("overflow-hidden", "half precision overflows on a GPU and not on this CPU", "artifact.overflow", "onnxruntime#32600",
          "graph:hidden_overflow", {"1 layer": 1, "every layer": 0}),
    Fault("splade-pooled-otherwise", "the file pools the weights of words otherwise than the model does", "artifact.head", "",
          "splade:pooled", {"the sum of tokens": "sum", "the last token": "last", "the first token": "first"}),
    Fault("splade-activation-lost", "the file leaves out the logarithm, or the cut at 0 too", "artifact.head", "",
          "splade:pooled", {"no logarithm": "relu", "raw logits": "logits"}),
    Fault("splade-special-tokens-lost", "the file pools without the tokens that stand around every text", "artifact.head", "",
          "splade:pooled", {"full": "inner"}),
    Fault("splade-padding-pooled", "the file pools padding too", "invariance", "", "splade:pooled", {"full": "padding"}),
    Fault("decoder-bias-lost", "the bias of a sparse model's decoder is left out", "artifact.head", "", "splade:bias"),
    Fault("decoder-in-float", "a sparse model's decoder computes in float", "artifact.quantized_ops", "", "splade:decoder"),
    # what surrounds it
    Fault("pooling-wrong", "the pooling is not the model's", "embedding", "fastembed#384", "pipeline:pooling",
          {"weighted mean": "weightedmean", "max": "max", "last token": "lasttoken", "first token, or the mean": "cls"}),
    Fault("normalize-missing", "the last module is left out of the export", "embedding.norm_error", "sentence-transformers#3258",
          "pipeline:normalize"),
    Fault("normalize-missing-in-file", "the file pools its vectors and does not normalize them", "artifact.unit_length",
          "sentence-transformers#3258", "head:unnormalized"),
    Fault("dense-missing-in-file", "the file pools its vectors and leaves the Dense head out", "artifact.head", "",
          "head:without_dense"),
    Fault("pooled-otherwise-in-file", "the file's own vectors are not its token embeddings, pooled",
          "artifact.output_agreement", "", "head:otherwise"),
    Fault("labels-reordered", "the file gives the labels in another order", "artifact.head", "", "scoring:labels_turned"),
    Fault("activation-in-file", "the file applies the activation, and the pipeline applies it again", "artifact.head",
          "", "scoring:activated"),
    Fault("activation-lost", "the artifact declares another activation than the model", "golden: activation", "",
          "scoring:activation_lost"),
    Fault("token-types-zeroed", "the two texts of a pair are not told apart", "artifact.head", "",
          "scoring:untyped"),
    Fault("pair-exchanged", "the second text of a pair is fed as the first", "artifact.head", "",
          "scoring:exchanged", needs=("tokens",)),
    Fault("head-in-float", "the classifier stays in float", "artifact.quantized_ops", "", "scoring:head_in_float"),
    Fault("dense-missing", "a Dense head is skipped", "embedding", "", "pipeline:dense"),
    Fault("filling-changed", "queries of a multi-vector model are filled up otherwise", "golden: query_expansion", "",
          "late:filling", {"to half of the length": "shorter", "attended to": "attend", "not at all": "none"}),
    Fault("filling-zeroed", "the file gives zeros where the mask is 0, also for what fills queries up", "tokens: only zeros", "",
          "late:zeroed"),
    Fault("skiplist-lost", "tokens of documents count that the model skips", "golden: skiplist_words", "", "late:unskipped"),
    Fault("length-cut", "max_seq_length is smaller than the model's", "golden: max_seq_length",
          "text-embeddings-inference#146", "pipeline:length",
          {"1 token less than the longest text": 0, "half of it": 0.5, "an eighth of it": 0.125}),
    Fault("prompt-missing", "the prompts of queries and documents are missing", "golden: prompt", "embed-parity",
          "pipeline:no_prompts"),
    Fault("prompt-added", "texts get a prompt that the model was not trained with", "golden: prompt", "", "pipeline:prompt",
          {"'query: '": "query: "}),
    Fault("case-kept", "the tokenizer stopped or started to lower-case", "golden", "mteb#5377", "tokenizer:case"),
    Fault("accents-kept", "the tokenizer stopped or started to strip accents", "golden", "", "tokenizer:accents"),
    Fault("tokenizer-config-wrong", "Transformers obeys another setting than the model's", "golden", "",
          "tokenizer:configured",
          {"accents": "strip_accents", "case": "do_lower_case", "the start of long texts is dropped": "truncation_side"}),
    Fault("padding-side-wrong", "the tokenizer's files put padding on the other side", "golden: padding",
          "text-embeddings-inference#648", "tokenizer:padded",
          {"in tokenizer.json": "tokenizer.json", "in tokenizer_config.json": "tokenizer_config.json"}),
    Fault("truncation-baked", "tokenizer.json cuts texts that the model takes", "golden: truncation.max_length", "",
          "tokenizer:baked",
          {"1 token less than the model takes": 0, "half of it": 0.5, "a quarter of it": 0.25}),
    Fault("special-token-wrong", "the special tokens around a text are wrong", "golden", "", "tokenizer:special",
          {"another last token": "other", "no special tokens": "none"}),
    Fault("vocabulary-swapped", "two words of the tokenizer's vocabulary changed places", "golden", "", "tokenizer:swap",
          {"2 words of no text": "unused", "2 rare words": "rare", "2 common words": "common"}),
    # how it is served
    Fault("padded-left", "padding comes before the text and shifts positions", "invariance", "text-embeddings-inference#648",
          "runtime:padded_left", {"1 batch in 8": 8, "every batch": 1}, needs=("tokens",)),
    Fault("rows-mixed-up", "vectors come back in another order than the texts", "embedding", "", "runtime:mixed_up",
          {"2 texts of 1 batch in 8": (8, 2), "2 texts of every batch": (1, 2), "every batch reversed": (1, 0)}, needs=()),
    Fault("lengths-kept-sorted", "vectors come back in the order of their texts' lengths", "invariance", "",
          "batches:kept_sorted",
          {"where they differ by 16 tokens": 16, "where they differ by 4": 4, "where they differ": 1}, needs=()),
    Fault("repeats-moved", "texts that a batch repeats are computed once, and their vectors come last", "invariance", "",
          "batches:repeats", needs=()),
    Fault("cache-key-too-short", "texts that differ are taken for the same, and get one vector", "embedding", "", "batches:alike",
          {"the same words in another order": "words", "the same first 16 tokens": 16, "the same first 8 tokens": 8,
           "the same length": "length"}, needs=()),
    Fault("computed-in-low-precision", "the vectors are rounded to low precision", "embedding", "", "runtime:rounded",
          {"8 bits of mantissa": 7, "3 bits": 2, "the power of two alone": 0}, needs=()),
    Fault("vector-ranges-of-few-texts", "ranges of int8 vectors come from too few texts", "embedding",
          "sentence-transformers#2837", "vectors:few", {"200 texts": 200, "32 texts": 32, "1 text": 1}, needs=()),
    Fault("vector-codes-wrap", "int8 vectors wrap around beyond their range", "embedding", "sentence-transformers#2865",
          "vectors:wrap", {"ranges of 200 texts": 200, "ranges of 32 texts": 32}, needs=()),
    # files
    Fault("artifact-truncated", "the ONNX file is incomplete", "artifact", "", "files:truncated",
          {"the last byte": -1, "a half": 0.5, "empty": 0}),
    Fault("artifact-flipped", "one bit is flipped in a file whose hash is recorded", "artifact", "", "files:flipped",
          {"1 bit": None}),
    Fault("golden-missing", "no golden was committed", "golden", "", "goldens:missing", needs=()),
    Fault("golden-truncated", "the golden is incomplete", "golden", "", "goldens:truncated",
          {"the last byte": -1, "a half": 0.5, "empty": 0}, needs=()),
    Fault("golden-edited", "the golden was edited by hand", "golden", "", "goldens:edited",
          {"1 digit of a vector": "data", "1 word of the manifest": "manifest"}, needs=()),
    Fault("golden-of-something-else", "the golden belongs to another suite or model", "golden", "", "goldens:foreign",
          {"another suite": "suite", "another tokenizer": "tokenizer", "other weights": "weights"}, needs=()),
    Fault("golden-too-coarse", "the golden was stored with too few digits", "ranking", "ik_llama.cpp#325", "goldens:coarse",
          {"16 bits": "half", "3 decimals": 3, "2 decimals": 2, "1 decimal": 1}, needs=()),
    Fault("golden-from-a-broken-pipeline", "the golden was recorded with a pooling other than the artifact's", "embedding",
          "fastembed PR#445, PR#436", "goldens:broken",
          {"weighted mean": "weightedmean", "first token, or the mean": "cls"}, needs=()),
    # speed
    Fault("slower", "the model takes longer than the deployed one", "latency", "onnxruntime#10267, #6695", "slow:slower",
          {"5 %": 0.05, "10 %": 0.1, "30 %": 0.3, "100 %": 1.0}),
)  # fmt: skip
FAULTS: Registry[Fault] = Registry("fault", "qguard.faults", Fault, lambda: _ALL)

# What happened to others and cannot be made here, with the reason; reported, never silently left out.
ELSEWHERE = {
    "saturation": "products of 8 bits that saturate need an x86 CPU without VNNI (onnxruntime#5849, #6004, #14642); the gate "
    "reads artifact.saturation from the file, and bounds it on such a CPU",
    "broken-kernel": "a kernel that is wrong on one accelerator alone needs that accelerator (transformers.js#1728): run the "
    "gate there",
    "scoring-in-low-precision": "the gate itself computes scores, in float64, from the vectors that it is given; no file or "
    "setting lowers that (sentence-transformers#3924)",
}


def chosen(names: list[str]) -> list[Fault]:
    """The faults of these names, all of them for none.

    Raises:
        UsageProblem: for an unknown name, with the nearest ones.
    """
    return [FAULTS.find(name) for name in dict.fromkeys(names)] if names else list(FAULTS.values())
