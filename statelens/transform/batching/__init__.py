"""Batching: `vmap`, `shard_map` and `map`, with axes and placements of states by lens."""

from ._map import map
from ._shard_map import shard_map
from ._vmap import vmap, vmap_new_states
