"""Lenses: what is selected in a tree, and what can be done with it.

A selector says how much of each unit is selected; a selection is what it selects in every tree
of one structure, computed once. A `Lens` is a selector with operations, a `BoundLens` one with
the live cells of a module; `Nodes` are whole parts of one. Groups, ties and differences are
built on these.
"""

from ._bound import BoundLens, first_match
from ._coverage import Selector
from ._diff import diff
from ._groups import groups
from ._lens import Lens, lens, partition
from ._nodes import Nodes, nodes
from ._partition import combine, split
from ._places import nodes_in
from ._predicates import arrays, at, dtype, inexact, name, ndim, size, tagged
from ._replace import added, read_all, replace_in, values_of
from ._selection import focus_on
from ._spec import LensSpec, selector_of
from ._state_forms import StateForm, is_bound, overlaid_values, units_of
from ._tie import tie
from ._trained import Trained
from ._units import View
from ._updates import halves_of

__all__ = [
    "BoundLens",
    "Lens",
    "Nodes",
    "View",
    "arrays",
    "at",
    "combine",
    "diff",
    "dtype",
    "groups",
    "inexact",
    "lens",
    "name",
    "ndim",
    "nodes",
    "partition",
    "size",
    "tagged",
    "tie",
]
