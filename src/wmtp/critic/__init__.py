"""The critic: a value head, its training, the rewards that it learns from, and reward models."""
