"""The embedded models: how they were trained, and the command that trains them again (``python -m rosetta.models.zoo``)."""
