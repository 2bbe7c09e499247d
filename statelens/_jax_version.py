"""Which JAX is needed; imported before what an older one hasn't."""

import jax

from ._errors import MissingPackageError

LEAST = (0, 10)
"""The oldest version of JAX that has what is used here."""

if jax.__version_info__ < LEAST:
    _least = ".".join(map(str, LEAST))
    raise MissingPackageError(
        "asked to import statelens",
        f"JAX is installed in version {jax.__version__}, and {_least} or newer is needed",
        f'pip install --upgrade "jax>={_least}"',
    )
