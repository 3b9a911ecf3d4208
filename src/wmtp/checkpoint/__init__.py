"""Checkpoints of a run: written aside, found, verified and read; tensors in any layout of ranks."""
