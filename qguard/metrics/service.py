"""What only a server can get wrong: named numbers of :mod:`qguard.judging.service`, and what each must hold."""

from __future__ import annotations

from qguard.metrics import MetricInfo
from qguard.metrics.bounds import Bound
from qguard.vectors.quantized import FLOAT

AGREEMENT = "agreement in [-1, 1]"  # the cosine of vectors; of other outputs what the model's similarity says
_SHARE, _COUNT, _FLAG = "share in [0, 1]", "count, 0 or more", "0 or 1"


def _metric(name: str, unit: str, description: str, better: bool = False) -> MetricInfo:
    return MetricInfo(
        f"service.{name}", higher_is_better=better, unit=unit, description=description, source="qguard", vectors=(FLOAT,)
    )


METRICS = (
    _metric("model", _FLAG, "whether answers name the model that was asked for", better=True),
    _metric("dimension", _COUNT, "values by which a vector is longer or shorter than fp32's"),
    _metric("norm", "distance, 0 or more", "largest distance of a vector's length from fp32's, relative"),
    _metric("index", _COUNT, "answers whose indices are not each number once"),
    _metric("order", _COUNT, "texts that get another text's output in a request with several"),
    _metric("base64", "distance, 0 or more", "largest distance of vectors in base64 from those in numbers, relative"),
    _metric("alone_vs_batch", AGREEMENT, "lowest agreement of a text alone with it in a request with others", better=True),
    _metric("concurrent", AGREEMENT, "lowest agreement of a text alone with it beside 1, 8 and 32 clients", better=True),
    _metric("usage", _COUNT, "most tokens by which the count of an answer differs from those of the model's tokenizer"),
    _metric("prompt", _SHARE, "texts whose output is nearer to fp32's of the text with another prompt"),
    _metric("whitespace", _SHARE, "texts whose output is nearer to fp32's of the text without its whitespace"),
    _metric("case", _SHARE, "texts whose output is nearer to fp32's of the text in lower case"),
    _metric("truncation", "tokens, 0 or more", "tokens between the length where texts are cut and the model's"),
    _metric("truncation_side", _FLAG, "whether the side of a long text that counts is the model's", better=True),
    _metric("dimensions", _COUNT, "requests for fewer dimensions that were neither heeded nor refused"),
    _metric("encoding_format", _COUNT, "requests for an encoding that were neither heeded nor refused"),
    _metric("unknown_model", _COUNT, "requests for a model that does not exist that were answered"),
    _metric("empty", _COUNT, "empty inputs that got neither an output nor an error in words"),
    _metric("odd", _COUNT, "odd inputs that got neither an output nor an error in words"),
    _metric("huge", _COUNT, "huge inputs that got neither an output nor an error in words"),
    _metric("replicas", AGREEMENT, "lowest agreement of a text's outputs from two replicas", better=True),
    _metric("restart", AGREEMENT, "lowest agreement of a text's outputs before and after a restart", better=True),
)
NAMES = tuple(m.name.partition(".")[2] for m in METRICS)

# Of a vector's batch: where the project bounds it not, the bound of the precision on INVARIANCE
OF_BATCH, INVARIANCE = ("alone_vs_batch", "concurrent"), "invariance.batch_cosine_min"

# Same texts through the same numbers: what remains is the order of float sums, .9999 as of invariance in a batch. A quantized
# model leaves lengths within .002 of 1; numbers with 6 digits are within 1e-6 of float32's. Under any other prompt a text's own
# fp32 vector is the nearer one for nearly all texts, quantized or not: half of them is far from both ends.
BOUNDS = {
    "model": Bound(">=", 1),
    "norm": Bound("<=", 0.01),
    "base64": Bound("<=", 1e-5),
    "alone_vs_batch": Bound(">=", 0.9999),
    "concurrent": Bound(">=", 0.9999),
    "prompt": Bound("<=", 0.5),
    "whitespace": Bound("<=", 0.5),
    "case": Bound("<=", 0.5),
    "truncation_side": Bound(">=", 1),
    "replicas": Bound(">=", 0.9999),
    "restart": Bound(">=", 0.9999),
}
NONE = Bound("<=", 0)  # of all others
