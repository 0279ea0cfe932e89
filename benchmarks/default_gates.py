"""Whether default gates tell good int8 from bad on other models: as they were chosen on MiniLM, and moved by the model's golden.

Good are qguard's own recipes. Bad are what two common calls of ONNX Runtime write: dynamic quantization with one scale a matrix,
and static quantization with the least and greatest value that each tensor had on 100 calibration texts (MinMax, one scale a
tensor). A recipe is judged by its own gates; the bad ones by those of int8-dynamic and int8-static, which allow more than int8's.
Only gates on accuracy are judged. fp32 of ONNX Runtime stands for the golden; how fragile a model is, its recorded golden says,
where there is one.

Models are those of a configuration; one that is not there is left out, with the reason. --vectors keeps what was encoded, and
reads it in the next run.

usage: python benchmarks/default_gates.py [--config FOLDER] [--model NAME …] [--good a,b] [--bad a,b] [--vectors FOLDER]
"""

import argparse
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qguard.config import load_config
from qguard.encoders import Encoder, Floats, open_encoder
from qguard.errors import QguardError
from qguard.families import measure, sampled
from qguard.gates import Gate, gates_for
from qguard.gates.check import judge
from qguard.gates.derived import MINILM_SPREAD, Standing, spread_of
from qguard.judging.session import Session
from qguard.metrics import Comparison, Measured
from qguard.precisions import Precision, parse_precision
from qguard.vectors.cosine import unit
from qguard.vectors.similarity import similarity_of

FP32 = Precision("fp32", "onnx")
GOOD = "int8@onnx,int8@openvino"
SHOWN = ("embedding.cosine_mean", "embedding.cosine_p01", "similarity.p99_error", "ranking.overlap@10", "ranking.top1")
TEXTS = 100  # that calibrate MinMax
LOST = 1.16  # share of neighbors that MiniLM's int8 loses, over the root of its noise in spreads
GAP = 8.0  # what by_gap is for MiniLM


def per_tensor(source: Path, target: Path, _: Any) -> None:
    """ONNX Runtime's dynamic quantization as it is by default."""
    from qguard.precisions.dynamic import quantize

    quantize(source, target, per_channel=False)


def minmax(source: Path, target: Path, rows: list[list[int]]) -> None:
    """ONNX Runtime's static quantization with MinMax ranges: of all multiplications, or of the table of a model without any."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    graph = onnx.load(str(source), load_external_data=False).graph
    inputs, found = [i.name for i in graph.input], {n.op_type for n in graph.node}

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = _feeds(rows, inputs)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    types = sorted({"MatMul", "Attention"} & found) or ["Gather"]
    quantize_static(
        str(source), str(target), Reader(), calibrate_method=CalibrationMethod.MinMax, per_channel=False,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8, op_types_to_quantize=types,
        extra_options={"DefaultTensorType": 1},
    )  # fmt: skip


BAD: dict[str, tuple[Callable[[Path, Path, Any], None], str]] = {
    "dynamic per tensor": (per_tensor, "int8-dynamic"), "static MinMax": (minmax, "int8-static"),
}  # fmt: skip


def _feeds(rows: list[list[int]], inputs: list[str]) -> Iterator[dict[str, Any]]:
    for row in rows:
        ids = np.asarray([row], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        yield {name: feed[name] for name in inputs}


class Kept:
    """Vectors of one model, each made once."""

    def __init__(self, session: Session, model: str, folder: Path) -> None:
        self.session, self.model, self.folder = session, model, folder

    def vectors(self, name: str, make: Callable[[], Floats]) -> Floats:
        """Float32 (texts, dim), read where they were made before."""
        file = self.folder / f"{self.model}.{name.replace(' ', '-')}.npy"
        if not file.exists():
            np.save(file, make())
        found: Floats = np.load(file)
        return found

    def token_ids(self, texts: Any, roles: Any) -> list[list[int]]:
        """As fp32 of ONNX Runtime is given them."""
        return self.session.tokenizer(FP32, self.model)(texts, roles)

    def good(self, precision: Precision) -> Floats:
        """What a recipe's artifact gives."""
        return self._encoded(self.session.encoder(precision, self.model))

    def bad(self, make: Callable[[Path, Path, Any], None]) -> Floats:
        """What a file gives that another tool made of the fp32 file."""
        fp32 = self.session.artifact(FP32, self.model)
        sample = parse_precision("int8").sample
        assert fp32.file is not None
        assert sample is not None
        rows = [row for row in self.token_ids(sample.texts, sample.roles) if row][:TEXTS]
        with TemporaryDirectory() as work:
            file = Path(work) / "model.onnx"
            logging.disable(logging.WARNING)
            make(fp32.file, file, rows)
            logging.disable(logging.NOTSET)
            return self._encoded(open_encoder("onnx", fp32.folder, fp32.pipeline, "int8", file))

    def _encoded(self, encoder: Encoder) -> Floats:
        """The vectors of core; zeros for a text without a token, which a golden leaves out."""
        suite = self.session.suite("core")
        rows = self.token_ids(suite.texts, suite.roles)
        read = [i for i, row in enumerate(rows) if row]
        made = encoder.encode_ids([rows[i] for i in read])
        found = np.zeros((len(rows), made.shape[1]), np.float32)
        found[read] = made
        return found


def rows_of(kept: Kept, good: list[str], bad: list[str]) -> Iterator[list[str]]:
    """One table row for each way of quantizing, after one of the model itself."""
    golden = kept.vectors("fp32", lambda: kept.good(FP32))
    read = golden.any(1)
    suite = kept.session.suite("core").without({int(i): "no token" for i in np.flatnonzero(~read)})
    pipeline = kept.session.model(kept.model).pipeline
    similarity = similarity_of(pipeline)
    told = kept.session.standing(kept.model)
    standing = Standing.of(golden[read], similarity, told.fragility if told else 1.0)
    assert standing is not None
    units = unit(golden[read])
    yield [kept.model, f"{standing.words}; a rule from the gap between neighbors expects {by_gap(units):.1f} times as many"]
    for name in (*good, *bad):
        make = partial(kept.bad, BAD[name][0]) if name in BAD else partial(kept.good, parse_precision(name))
        precision = parse_precision(BAD[name][1] if name in BAD else name)
        try:
            compared = Comparison.of(suite, golden[read], kept.vectors(name, make)[read], similarity)
            measured = [m for family in sampled(suite) for m in measure(compared, family)]
        except QguardError as e:
            yield [kept.model, name, str(precision), f"refused: {e}"]
            continue
        values = {m.name: m.value for m in measured if m.slice is None}
        moved = (gates_for(precision, {}, normalized=pipeline.normalize, standing=s) for s in (None, standing))
        verdicts = (_failed(measured, gates) for gates in moved)
        noise = (1 - values["embedding.cosine_mean"]) / spread_of(units)
        lost = (1 - values["ranking.overlap@10"]) / math.sqrt(noise) / LOST
        yield [kept.model, name, str(precision), *(f"{values[s]:.4f}" for s in SHOWN), f"{lost:.1f}", *verdicts]


def by_gap(units: Any) -> float:
    """The other rule that was tried: a score's noise over the mean gap between the 10th and the 11th neighbor, over MiniLM's.

    Of noise in random directions, a score moves by the noise's length over the root of the dimension.
    """
    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    best = np.sort(scores, axis=1)[:, -11:]
    moves = math.sqrt(min(1.0, spread_of(units) / MINILM_SPREAD) / units.shape[1])
    return moves / float((best[:, 1] - best[:, 0]).mean()) / GAP


def _failed(measured: list[Measured], gates: list[Gate]) -> str:
    failed = dict.fromkeys(c.name for c in judge(measured, gates, "core") if c.outcome == "fail")
    return f"fails {len(failed)}: {', '.join(failed)}" if failed else "passes"


def main() -> None:
    """Print one table on the models, and one on what their gates say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, default=Path())
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--good", default=GOOD)
    parser.add_argument("--bad", default=",".join(BAD))
    parser.add_argument("--vectors", type=Path)
    args = parser.parse_args()
    session = Session(load_config(args.config))
    print(
        "| model | quantized by | gates of |", " | ".join(SHOWN), "| lost at equal noise | as on MiniLM | moved by the golden |"
    )
    print("|---" * (len(SHOWN) + 6), end="|\n")
    with TemporaryDirectory() as work:
        for name in args.model or session.config.models:
            kept = Kept(session, name, args.vectors or Path(work))
            try:
                for row in rows_of(kept, *([n for n in names.split(",") if n] for names in (args.good, args.bad))):
                    print("|", " | ".join(row), "|", flush=True)
            except QguardError as e:
                print(f"{name} is left out: {e}", flush=True)


if __name__ == "__main__":
    main()
