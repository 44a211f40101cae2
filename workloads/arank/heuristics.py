"""The layer lists hard-coded in the two released codes, for any number of layers.

gamma-MoD: ``initialize_mod_modules`` of ``llava_llama_mod.py``; p-MoD: the router modes of
``pmod_llava_llama.py``. None of them reads a rank, ``gamma_arank`` included.
"""

from collections.abc import Callable, Mapping

HEURISTICS: Mapping[str, Callable[[int], range | list[int]]] = {
    "gamma_arank": lambda layers: range(3, layers - 1),
    "gamma_first_half": lambda layers: range(layers // 2),
    "gamma_second_half": lambda layers: range(layers // 2, layers - 1),
    "gamma_sparse": lambda layers: range(0, layers, 2),
    "gamma_all": lambda layers: range(layers),
    "gamma_first_last_dense": lambda layers: range(1, layers - 1),
    "gamma_last_two_thirds": lambda layers: range(layers // 3 + 2, layers - 1),
    "gamma_first_five_dense": lambda layers: range(5, layers - 1),
    "p_mod_deep": lambda layers: range(2, layers - 1),
    "p_mod_deep_with_last": lambda layers: range(2, layers),
    "p_mod_interleave": lambda layers: range(1, layers, 2),
}
"""Name to the layers that are converted, given the number of decoder layers."""
