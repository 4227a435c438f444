"""What a profile's runs would take before any of them is made: time, memory, readings and requests (Appendix J)."""

from rosetta.planning.nodes import Load, Node, peak
from rosetta.planning.plan import DoesNotFit, Plan, check, plan
from rosetta.planning.runs import matchings, stages
from rosetta.planning.sizes import Size, size

__all__ = ["DoesNotFit", "Load", "Node", "Plan", "Size", "check", "matchings", "peak", "plan", "size", "stages"]
