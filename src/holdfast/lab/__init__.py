"""The lab: simulated platforms, faults to inflict on them, and the scenarios that judge."""
