"""Activations of ``torch.nn`` as sentence-transformers stores them, by their class's name, with its default settings.

Formulas are those of torch's documentation, in float32. Each takes float32 (…, dim) and gives the same, but GLU half the columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def _gelu(x: Any) -> Any:
    erf = np.frompyfunc(math.erf, 1, 1)(x * np.float32(0.5**0.5)).astype(x.dtype)
    return x * (1 + erf) / 2


def _sigmoid(x: Any) -> Any:
    return np.exp(-np.logaddexp(0, -x))


def _softplus(x: Any) -> Any:
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def _elu(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _glu(x: Any) -> Any:
    a, b = np.split(x, 2, axis=-1)
    return a * _sigmoid(b)


def _log_softmax(x: Any) -> Any:
    centered = x - x.max(-1, keepdims=True)
    return centered - np.log(np.exp(centered).sum(-1, keepdims=True))


# RReLU draws a slope in training; in use it is the mean of the two ends, 1/8 and 1/3
COMPUTED: dict[str, Callable[[Any], Any]] = {
    "CELU": _elu,
    "ELU": _elu,
    "GELU": _gelu,
    "GLU": _glu,
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, np.float32(0)),
    "Hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "Hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Identity": lambda x: x,
    "LeakyReLU": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "LogSigmoid": lambda x: -_softplus(-x),
    "LogSoftmax": _log_softmax,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "RReLU": lambda x: np.where(x > 0, x, np.float32(11 / 48) * x),
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": lambda x: np.float32(1.0507009873554805) * np.where(x > 0, x, np.float32(1.6732632423543772) * _elu(x)),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softmax": lambda x: np.exp(_log_softmax(x)),
    "Softmin": lambda x: np.exp(_log_softmax(-x)),
    "Softplus": _softplus,
    "Softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - np.float32(0.5), 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
    "Tanhshrink": lambda x: x - np.tanh(x),
}
