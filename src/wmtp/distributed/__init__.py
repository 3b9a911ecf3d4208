"""Processes that train together: their group, collectives, and agreement about what each of them did."""
