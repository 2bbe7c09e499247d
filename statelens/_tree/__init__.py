"""What a tree is made of: paths, patterns, and flattening down to units.

A *unit* is what a lens selects: a cell, whole, or an array outside any cell. This room knows
how a path is written and matched, and how a tree comes apart into units with their paths. It
knows nothing of states beyond the protocol that a cell fulfils.
"""

from ._bound_method import METHODS, BoundMethod
from ._expression import matches_expression, read_expression
from ._fields import fields_of, is_foreign, reads_own_fields, slots_of
from ._flatten import (
    Site,
    TreeDef,
    a_leaf,
    atoms,
    cells,
    flatten,
    flatten_as,
    flatten_with_path,
    has_owners,
    hidden_cells,
    is_array,
    is_inexact,
    is_key,
    is_number,
    is_numeric,
    kinds,
    leaves_with_path,
    map_cells,
    sites,
)
from ._identity import (
    CONTAINERS,
    PLAIN_TYPES,
    Identity,
    KeyIdentity,
    is_same,
    put_weakly,
    reference,
    weakly,
)
from ._index import Index
from ._nested import PathNode, nest
from ._parse import as_path, parse
from ._path import GraphKey, Path, ancestors, closest, closest_names, format, from_jax, resolve
from ._pattern import Pattern, format_pattern, is_named, matches, scan_pattern, split_index
from ._protocols import MISSING, Cell, LensLeaf, MutableNode, is_probed, looking, open_hidden
from ._scanner import Scanner
from ._sorting import flatten_as_jax, is_sortable
