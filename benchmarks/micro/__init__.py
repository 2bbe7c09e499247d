"""What a call costs where there is next to nothing to compute. Parts, as in `parts/`."""

PARTS = (
    "dispatch",
    "functional",
    "attribute",
    "second_thread",
    "loops",
    "first_call",
    "eager",
    "derivatives",
)
"""In the order of the table."""
