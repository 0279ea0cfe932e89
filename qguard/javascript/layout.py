"""The folder that Transformers.js reads, and how it names ONNX files by their dtype."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

# dtype → what a file's name ends with, before .onnx; @huggingface/transformers 4.3.1, src/utils/dtypes.js. Any other dtype loads
# fp32 without a word, and in browsers q8.
SUFFIXES = {
    "fp32": "", "fp16": "_fp16", "q8": "_quantized", "int8": "_int8", "uint8": "_uint8", "q4": "_q4", "q4f16": "_q4f16",
    "bnb4": "_bnb4", "q2": "_q2", "q2f16": "_q2f16", "q1": "_q1", "q1f16": "_q1f16",
}  # fmt: skip
SUBFOLDER = "onnx"
# read beside the ONNX files
CONFIGURATION, TOKENIZER = ("config.json",), ("tokenizer.json", "tokenizer_config.json")


def file_name(dtype: str) -> str:
    """The name of the ONNX file that a dtype loads, such as ``model_quantized.onnx`` for ``q8``."""
    return f"model{SUFFIXES[dtype]}.onnx"


def named(file: str) -> tuple[str, str]:
    """``model_file_name`` and ``dtype`` that load an ONNX file of any name, such as ``model`` and ``q8``."""
    stem = file.removesuffix(".onnx")
    dtype = next((d for d, suffix in SUFFIXES.items() if suffix and stem.endswith(suffix) and stem != suffix), "fp32")
    return stem.removesuffix(SUFFIXES[dtype]), dtype


def lay_out(folder: Path, file: Path, external: Iterable[str], configuration: Path, tokenizer: Path) -> None:
    """Fill an empty folder with what Transformers.js reads of one model, and nothing else.

    Args:
        folder: What is filled.
        file: The ONNX file.
        external: Files beside it that hold its weights.
        configuration: The folder of ``config.json``.
        tokenizer: The folder of the tokenizer's files. A file that is not there is left out, and Transformers.js says so.

    Raises:
        OSError: when something cannot be linked or copied.
    """
    (folder / SUBFOLDER).mkdir(parents=True)
    for source, names in ((configuration, CONFIGURATION), (tokenizer, TOKENIZER)):
        for name in names:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    for name in (file.name, *external):
        _same(file.parent / name, folder / SUBFOLDER / name)


def _same(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where it lies on another disk. ONNX Runtime follows no symbolic link to weights."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
