"""What all tests share: how hypothesis runs."""

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.helpers")

settings.register_profile(
    "statelens",
    deadline=None,
    max_examples=100,
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("statelens")
