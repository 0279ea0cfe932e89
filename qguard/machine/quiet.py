"""Transformers without the bars that it draws, and without what the packages that it loads say about themselves."""

from __future__ import annotations

import logging

# torchao names, with their paths, the kernels for GPUs that this machine cannot load, and torch what torchao registers
TALKATIVE = ("torchao", "torch.utils._pytree")


def quiet_transformers() -> None:
    """Import Transformers, in silence: to be called before anything is taken from it.

    It imports torchao where that is installed, for models that torchao made; what torchao and torch say later is heard.
    """
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        import transformers.modeling_utils
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    transformers.utils.logging.disable_progress_bar()
