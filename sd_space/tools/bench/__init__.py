"""Measures the engine on this machine, beside the plain pipeline on the same model in the same process."""
