#!/usr/bin/env bash
# A program under qemu-x86_64 -cpu MODEL that asks the CPU itself (CPUID) is told the features of MODEL, and one that reads
# /proc/cpuinfo is told those of the machine that QEMU runs on. So a service that decides by /proc/cpuinfo whether it needs ONNX Runtime's
# option for exact products, or which kernels it takes, decides for another CPU than the one that computes. qemu-aarch64 10.0 writes a
# /proc/cpuinfo of its CPU. Run it on x86-64 with AVX2.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
grep -qw avx2 /proc/cpuinfo || { echo "this machine has no AVX2, and nothing could be seen"; exit 1; }
qemu=$(command -v qemu-x86_64-static || true)
if [ -z "$qemu" ]; then
  (cd "$work" && apt-get -q download qemu-user-static && dpkg -x qemu-user-static_*.deb .)
  qemu="$work/usr/bin/qemu-x86_64-static"
fi
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q numpy==2.4.6
cat > "$work/try.py" <<'PY'
from pathlib import Path

import numpy as np

flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
print(f"CPUID {np._core._multiarray_umath.__cpu_features__['AVX2']}, /proc/cpuinfo {'avx2' in flags.split()}")
PY
"$qemu" --version | head -1
found=$("$qemu" -cpu Nehalem "$work/venv/bin/python" "$work/try.py")
echo "AVX2 on Nehalem, which has none: $found"
[ "$found" = "CPUID False, /proc/cpuinfo True" ] || { echo "CHANGED: /proc/cpuinfo was the host's"; exit 1; }
echo "as found"
