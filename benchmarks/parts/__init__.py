"""What programs feel. A part is a file with a `TITLE`, and `rows(settings)`, which measures."""

PARTS = (
    "real_models",
    "training",
    "memory",
    "programs",
    "growth",
    "lenses",
    "importing",
    "checkpoints",
)
"""In the order of the table."""
