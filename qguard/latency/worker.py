"""Times one ONNX file in a process of its own, on request. Needs onnxruntime and numpy only, so that any interpreter can run it.

usage: python worker.py MODEL.onnx FEEDS.npz THREADS OUTPUT
then lines "DISCARD TIMED" on standard input, a JSON list back for each
"""

import json
import sys
import time

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Load, say the version, then answer until standard input ends."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[3])
    options.log_severity_level = 3
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    with np.load(sys.argv[2], allow_pickle=False) as data:
        feeds = {i.name: data[i.name] for i in session.get_inputs()}
    outputs = [sys.argv[4]]
    print(json.dumps({"onnxruntime": ort.__version__}), flush=True)
    for line in sys.stdin:
        discard, timed = map(int, line.split())
        for _ in range(discard):
            session.run(outputs, feeds)
        timings = []
        for _ in range(timed):
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            session.run(outputs, feeds)
            timings.append((time.perf_counter_ns() - wall, time.thread_time_ns() - cpu))
        print(json.dumps(timings), flush=True)


if __name__ == "__main__":
    main()
