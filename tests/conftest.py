"""What all tests share: the two tiers, and how long hypothesis looks in each."""

import os
import sys

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.helpers")

# In CI the examples are the same each time, so that a failure is one of the last change.
FIXED = os.environ.get("CI") == "true"
settings.register_profile("first", deadline=None, derandomize=FIXED, max_examples=25)
settings.register_profile("slow", deadline=None, derandomize=FIXED, max_examples=100)


def pytest_configure(config):
    settings.load_profile("slow" if config.option.markexpr == "slow" else "first")
    # Where Python counts the calls of C among its own, each error that a node raises when JAX
    # flattens it takes one away for good. There are hundreds of such errors here, which are meant.
    if sys.version_info < (3, 12):
        sys.setrecursionlimit(3 * sys.getrecursionlimit())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Properties are in both tiers: the first looks at some examples, the slow one at many."""
    if config.option.markexpr == "slow":
        for item in items:
            if getattr(item.obj, "is_hypothesis_test", False):
                item.add_marker(pytest.mark.slow)
