"""One file for each part: a `TITLE`, and `rows(settings)`, which gives rows as it measures."""
