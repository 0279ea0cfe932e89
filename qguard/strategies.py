"""Texts for property-based tests, as strategies of Hypothesis; docs/robustness.md says what each gives."""

from qguard.texts.strategies import *  # noqa: F403
from qguard.texts.strategies import __all__  # noqa: F401
