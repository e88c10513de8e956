"""What this machine cannot test: skipped with its reason, and told once more at the end of the run."""

from typing import NoReturn

import pytest

LACKED: dict[str, None] = {}
"""What was lacking, in the order in which it was noticed; a dict, because it is told once each."""


def lacking(what: str) -> NoReturn:
    """Skip the test or fixture that needs `what`, and have it listed at the end of the run."""
    LACKED[what] = None
    pytest.skip(f"not tested here: {what}")
