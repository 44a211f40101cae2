from workloads.mod.accounting import nominal_skip
from workloads.mod.calibrate import calibrate_threshold, training_rule
from workloads.mod.config import MoDConfig
from workloads.mod.convert import convert, is_converted, mod_config, revert
from workloads.mod.record import RoutingRecord
from workloads.mod.state import load_pretrained, save_pretrained
from workloads.mod.warm_start import warm_start_routers

__all__ = [
    "MoDConfig",
    "RoutingRecord",
    "calibrate_threshold",
    "convert",
    "is_converted",
    "load_pretrained",
    "mod_config",
    "nominal_skip",
    "revert",
    "save_pretrained",
    "training_rule",
    "warm_start_routers",
]
