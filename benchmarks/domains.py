"""What calibration texts of another domain cost: int8-static calibrated on each domain, judged on held-out texts of both.

usage: python benchmarks/domains.py legal=FILE.jsonl[,FILE.jsonl] social=FILE.jsonl …    lines with "text", or "text_a" "text_b"

300 texts of each domain calibrate and 600 others judge; no text does both. Rows: what it was calibrated on ("shipped": the
texts that qguard ships). Columns: what it is judged on. Cells: overlap@10 and the 99th percentile of the similarity error.
"""

import json
import sys
import tempfile
from pathlib import Path

from texts import texts_of

from qguard.config import load_config
from qguard.families import measure
from qguard.judging.session import Session
from qguard.metrics import Comparison
from qguard.precisions import Precision, parse_precision
from qguard.precisions.calibration import Calibration
from qguard.suites.reader import read_suite

CALIBRATE, JUDGE = 300, 600


def main() -> None:
    """Calibrate, judge and print the table."""
    harness = Session(load_config(Path()))
    model = harness.model("minilm")
    with tempfile.TemporaryDirectory() as folder:
        suites, precisions = {}, {"shipped": parse_precision("int8-static")}
        for part in sys.argv[1:]:
            name, _, files = part.partition("=")
            texts = texts_of(files.split(","))
            if len(texts) < CALIBRATE + JUDGE:
                sys.exit(f"{name}: expected {CALIBRATE + JUDGE} distinct texts, found {len(texts)}")
            for use, some in (("calibrate", texts[:CALIBRATE]), ("judge", texts[CALIBRATE : CALIBRATE + JUDGE])):
                rows = "".join(json.dumps({"text": t}) + "\n" for t in some)
                Path(folder, f"{name}-{use}.jsonl").write_text(rows, encoding="utf-8")
            suites[name] = read_suite(name, Path(folder, f"{name}-judge.jsonl"))
            calibration = Calibration(Path(folder, f"{name}-calibrate.jsonl"), name, CALIBRATE)
            precisions[name] = Precision("int8-static", "onnx", calibration=calibration)
        golden = {name: harness.encoder(parse_precision("fp32"), "minilm").encode(s.texts) for name, s in suites.items()}
        print("calibrated on  " + "".join(f"judged on {name:<16}" for name in suites))
        for name, precision in precisions.items():
            artifact = precision.build(model)
            encoder = harness.encoder(precision, "minilm")
            cells = []
            for judged, suite in suites.items():
                calibration = precision.calibration or Calibration()
                calibration.refuse_overlap(precision.name, artifact.calibration, judged, suite.texts)
                comparison = Comparison.of(suite, golden[judged], encoder.encode(suite.texts))
                found = {m.name: m.value for f in ("ranking", "similarity") for m in measure(comparison, f) if m.slice is None}
                cells.append(f"{found['ranking.overlap@10']:.4f}  {found['similarity.p99_error']:.4f}          ")
            print(f"{name:<15}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
