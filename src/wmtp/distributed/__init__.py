"""Processes that train together: their group, their collectives, and agreement on success or failure."""
