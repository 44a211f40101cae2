"""Generation: answers to a batch of prompts, each row with its own limits, text as it grows."""

from workloads.generation.completion import Completion, Listener
from workloads.generation.errors import SamplingError
from workloads.generation.generator import Generator
from workloads.generation.inputs import model_inputs
from workloads.generation.sampling import Sampling
from workloads.generation.settings import greedy_settings

__all__ = [
    "Completion",
    "Generator",
    "Listener",
    "Sampling",
    "SamplingError",
    "greedy_settings",
    "model_inputs",
]
