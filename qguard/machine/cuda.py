"""The CUDA device, as its driver tells of it: no framework is imported for that."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any, NamedTuple

from qguard.errors import MeasurementProblem

_NAME = 256  # bytes of a name, with its end


class Card(NamedTuple):
    """The first CUDA device that this process may use.

    Attributes:
        name: Such as ``NVIDIA H200``.
        bus: Its PCI address, such as ``0000:1b:00.0``, by which NVML finds the same device.
        cuda: The newest CUDA version that the driver supports, such as ``13.0``.
    """

    name: str
    bus: str
    cuda: str


@cache
def card() -> Card | None:
    """The device, as ``CUDA_VISIBLE_DEVICES`` chooses it; ``None`` without a driver or a device.

    Calls of NVIDIA's driver API, https://docs.nvidia.com/cuda/cuda-driver-api/: ``cuInit``, ``cuDeviceGet``, ``cuDeviceGetName``,
    ``cuDeviceGetPCIBusId`` and ``cuDriverGetVersion``. None of them creates a context.
    """
    try:
        driver: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, version = ctypes.c_int(), ctypes.c_int()
    name, bus = ctypes.create_string_buffer(_NAME), ctypes.create_string_buffer(_NAME)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, _NAME, device)
        or driver.cuDeviceGetPCIBusId(bus, _NAME, device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    # 1000 times the major version and 10 times the minor one
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Card(name.value.decode("utf-8", "replace"), bus.value.decode("ascii", "replace"), cuda)


def require_card(who: str) -> Card:
    """The device.

    Args:
        who: What asks for it, for the message.

    Raises:
        MeasurementProblem: without one.
    """
    found = card()
    if found is None:
        raise MeasurementProblem(
            f"{who} computes on a CUDA device, and the NVIDIA driver finds none here; look with nvidia-smi, and run qguard on a "
            "machine with a card, or judge on the CPU: --precision NAME@onnx"
        )
    return found
