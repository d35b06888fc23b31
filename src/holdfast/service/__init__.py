"""Holdfast as a service of systemd: the unit, and putting it in its place."""
