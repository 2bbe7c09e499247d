"""Control flow: the loops and branches of `jax.lax`, over functions with states.

What a body writes is carried, what it reads is closed over; outside of any trace a loop is
staged once, and run again by what is kept of it.
"""

from ._branches import cond, ifelse, switch
from ._loops import (
    bounded_while_loop,
    checkpointed_for_loop,
    checkpointed_scan,
    for_loop,
    scan,
    while_loop,
)
from ._progress import ProgressBar, load_tqdm
from ._run_scan import order_of, run_scan, steps_of
