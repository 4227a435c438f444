"""Section 4, Appendices C and D: power laws, and the theory that expects them."""

from rosetta.laws.packing import effective_tail, leakage, leakage_covariance, pack, packing_spread, packings
from rosetta.laws.scaling import PowerLawFit, fit_power_law, fits, leave_largest_out, local_slopes, wilson
from rosetta.laws.simulation import SimulationResult, grid, recover, simulate, slopes

from rosetta.laws.theory import (  # isort: skip
    READINGS, Frontier, correlation_law, cutoff_rank, exponents, feature_isolation, frontier, mean_rosetta_isolation,
    n_features, optimal_isolation, posterior_variance, purification, rosetta_features, shared_features, tail_isolation,
)  # fmt: skip

__all__ = [
    "READINGS", "Frontier", "PowerLawFit", "SimulationResult", "correlation_law", "cutoff_rank", "effective_tail",
    "exponents", "feature_isolation", "fit_power_law", "fits", "frontier", "grid", "leakage", "leakage_covariance",
    "leave_largest_out", "local_slopes", "mean_rosetta_isolation", "n_features", "optimal_isolation", "pack",
    "packing_spread", "packings", "posterior_variance", "purification", "recover", "rosetta_features",
    "shared_features", "simulate", "slopes", "tail_isolation", "wilson",
]  # fmt: skip
