"""Which of qguard's extras installs what is missing, as its own metadata says."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

# the same Python package as onnxruntime, which has to go first
GPU = "onnxruntime-gpu"
INSTALL_GPU = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"


@cache
def extra_of(module: str) -> str | None:
    """The smallest extra of qguard that installs a module or distribution; ``None`` where none does.

    Args:
        module: Such as ``sentence_transformers`` or ``onnx.helper``.
    """
    try:
        required = importlib.metadata.requires("qguard") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    extras: dict[str, set[str]] = {}
    for line in required:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and extra:
            extras.setdefault(extra[1], set()).add(_plain(name[0]))
    having = [(len(names), extra) for extra, names in extras.items() if _plain(module.partition(".")[0]) in names]
    return min(having)[1] if having else None


def install(*missing: str) -> str:
    """The command that installs missing modules or distributions."""
    if GPU in missing:
        rest = [name for name in missing if name != GPU]
        return " && ".join([*([install(*rest)] if rest else []), INSTALL_GPU])
    extras = sorted({extra for name in missing if (extra := extra_of(name))})
    others = [name.partition(".")[0] for name in missing if not extra_of(name)]
    return " ".join(["pip install", *([f"'qguard[{','.join(extras)}]'"] if extras else []), *others])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
