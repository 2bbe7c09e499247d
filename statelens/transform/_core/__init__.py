"""The one mechanism that every transform stands on.

A function is run purely: its arguments split into traced and static halves, its states found by
looking and by running, its writes taken out as outputs. What differs from transform to transform
lies in the other rooms.
"""

from ._decorator import Decorator
from ._discovery import Attempt, UndeclaredStates, discover, retry
from ._field_names import field_names
from ._options import (
    Choice,
    applied,
    parse_argnum,
    parse_argnums,
    parse_arguments,
    parse_count,
    read_lens,
    read_states,
)
from ._output import merge_output
from ._reachable import (
    FUNCTIONS,
    follow,
    inner_codes,
    innermost,
    labels_of,
    named_in,
    owners_of,
    reachable,
)
from ._refusals import wrong_type
from ._run import (
    Arguments,
    commit,
    current_value,
    merge_arguments,
    pure,
    run,
    run_and_commit,
    split_arguments,
    split_value,
    split_writes,
    states_in,
)
from ._runtime_errors import (
    PROGRAM_ERRORS,
    Check,
    Taken,
    can_raise,
    expect_errors,
    raise_failed_check,
    refuse_shared_arrays,
)
from ._split import as_partitioned, constants, split_items, split_static
from ._static import Partitioned, merge_static, split_numbers
from ._tree_difference import children_of, describe_difference, describe_types, described, written
from ._wrapper import Wrapper, after_self, is_closed_over
