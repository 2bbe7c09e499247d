"""What all tests share: how hypothesis runs."""

import os

from hypothesis import settings

settings.register_profile(
    "statelens",
    deadline=None,
    max_examples=100,
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("statelens")
