"""The page in which neurons are explored."""

from rosetta.viewer.page import Context, Member, RosettaNeuron, Sight, address, write

__all__ = ["Context", "Member", "RosettaNeuron", "Sight", "address", "write"]
