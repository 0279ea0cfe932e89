"""When a report is written, and of which commit, for a history of reports."""

from __future__ import annotations

import os
from datetime import UTC, datetime

# what GitHub, GitLab, Azure, Bitbucket, CircleCI, Jenkins, Buildkite and Travis call the commit that they build
_COMMITS = (
    "GITHUB_SHA", "CI_COMMIT_SHA", "BUILD_SOURCEVERSION", "BITBUCKET_COMMIT", "CIRCLE_SHA1", "GIT_COMMIT", "BUILDKITE_COMMIT",
    "TRAVIS_COMMIT",
)  # fmt: skip


def created() -> str:
    """Now in UTC, to the second; where ``SOURCE_DATE_EPOCH`` is set, that moment, so that a build can be repeated byte by byte.

    See https://reproducible-builds.org/specs/source-date-epoch/. A value that is no moment is ignored, as if it were not set.
    """
    try:
        moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "")), UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str | None:
    """The commit that CI says it builds, in hexadecimal digits; ``None`` if nothing says it."""
    for name in _COMMITS:
        found = os.environ.get(name, "").strip().lower()
        if 7 <= len(found) <= 64 and set(found) <= set("0123456789abcdef"):
            return found
    return None
