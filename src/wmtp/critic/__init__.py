"""The critic: a value head, its training, its rewards, and reward models."""
