"""Requests that are refused: why, in words. Each protocol tells them in its own shape."""

from __future__ import annotations

INVALID, UNKNOWN_MODEL, WRONG_KIND, TOO_LARGE, BUSY, FAILED, NO_PATH, NO_METHOD, SLOW = (
    "invalid", "unknown_model", "wrong_kind", "too_large", "busy", "failed", "no_path", "no_method", "slow",
)  # fmt: skip

STATUS = {
    INVALID: 400, UNKNOWN_MODEL: 404, WRONG_KIND: 400, TOO_LARGE: 413, BUSY: 429, FAILED: 500, NO_PATH: 404, NO_METHOD: 405,
    SLOW: 408,
}  # fmt: skip


class Refusal(Exception):
    """A request that gets no answer.

    Args:
        why: A key of :data:`STATUS`.
        message: What was expected and what was found.
        field: The field of the request that is refused; empty for the request as a whole.
    """

    def __init__(self, why: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.why, self.message, self.field = why, message, field
