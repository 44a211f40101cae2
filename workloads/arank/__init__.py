"""ARank: how redundant each layer's attention is, and which layers to convert for it."""

from workloads.arank.artifact import read_profile, write_profile
from workloads.arank.capacity import capacities_by_rank
from workloads.arank.capture import arank_samples
from workloads.arank.errors import ARankError
from workloads.arank.heatmap import heat_map_png, heat_map_svg
from workloads.arank.heuristics import HEURISTICS
from workloads.arank.order import spearman
from workloads.arank.profile import ARankProfile, arank_profile, real_lengths
from workloads.arank.rank import RankOptions, map_ranks
from workloads.arank.select import LayerSelection, select_layers
from workloads.arank.workspace import give_back_freed_memory

__all__ = [
    "HEURISTICS",
    "ARankError",
    "ARankProfile",
    "LayerSelection",
    "RankOptions",
    "arank_profile",
    "arank_samples",
    "capacities_by_rank",
    "give_back_freed_memory",
    "heat_map_png",
    "heat_map_svg",
    "map_ranks",
    "read_profile",
    "real_lengths",
    "select_layers",
    "spearman",
    "write_profile",
]
