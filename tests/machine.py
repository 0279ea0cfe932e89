"""What the CPU under the tests can do, and how long they take; what it cannot is skipped, and says so."""

from __future__ import annotations

import pytest

from qguard.machine.cpu import cpu, saturates

BF16 = bool(cpu()[1] & {"avx512_bf16", "amx_bf16", "bf16"})
needs_bf16 = pytest.mark.skipif(not BF16, reason="this CPU has no bfloat16")
needs_exact_sums = pytest.mark.skipif(saturates(), reason="this CPU saturates sums itself: x86 without VNNI")


def on_this_cpu(names):
    """Precisions to run, for ``parametrize``; what this CPU cannot compute is skipped."""
    return [pytest.param(n, marks=needs_bf16) if n.startswith("bf16@openvino") else n for n in names]


def long_but(quick, every):
    """Arguments for ``parametrize``: all but the quick ones are marked ``long``."""
    return [v if v in quick else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.long) for v in every]
