"""Section 4, Appendices C and D: power laws, and the theory that expects them."""

from rosetta.laws.scaling import PowerLawFit, Prediction, fit_power_law, fits, leave_largest_out, local_slopes
from rosetta.laws.simulation import (
    Recovered,
    SimulationResult,
    grid,
    non_rosetta_isolation,
    one_at_a_time,
    recover,
    simulate,
    slopes,
)  # fmt: skip
from rosetta.laws.theory import (
    READINGS,
    Frontier,
    continuum_isolation,
    correlation_law,
    cutoff_rank,
    exponents,
    feature_isolation,
    frontier,
    mean_rosetta_isolation,
    n_features,
    optimal_isolation,
    posterior_variance,
    rosetta_features,
    signal_to_interference,
    tail_isolation,
)  # fmt: skip

__all__ = [
    "READINGS", "Frontier", "PowerLawFit", "Prediction", "Recovered", "SimulationResult", "continuum_isolation",
    "correlation_law", "cutoff_rank", "exponents", "feature_isolation", "fit_power_law", "fits", "frontier", "grid",
    "leave_largest_out", "local_slopes", "mean_rosetta_isolation", "n_features", "non_rosetta_isolation",
    "one_at_a_time", "optimal_isolation", "posterior_variance", "recover", "rosetta_features", "signal_to_interference",
    "simulate", "slopes", "tail_isolation",
]  # fmt: skip
