"""Every transform has its rows in the tables of calls with one thing wrong."""

from statelens import transform
from tests.transform.batching.test_bad_input import row as batching
from tests.transform.compilation.test_bad_input import row as compilation
from tests.transform.control_flow.test_bad_input import row as control_flow
from tests.transform.derivatives.test_bad_input import row as derivatives
from tests.transform.derivatives.test_bad_input_of_others import row as others
from tests.transform.derivatives.test_bad_output import row as outputs
from tests.transform.inspection.test_bad_input import row as inspection
from tests.transform.test_bad_input_of_trees import row as trees


def test_rows_have_names_of_their_own():
    derivatives_too = [derivatives, others, outputs]
    tables = [batching, compilation, control_flow, *derivatives_too, inspection, trees]
    names = [row.id for table in tables for row in table]
    assert len(set(names)) == len(names) >= 400
    asked = {name.partition(":")[0] for name in names}
    # What makes no call of its own: JAX's sets of checks, and other names for the same.
    of_jax = {n for n in transform.__all__ if n.endswith(("_checks", "check", "check_error"))}
    assert asked | of_jax | {"remat"} == set(transform.__all__)
