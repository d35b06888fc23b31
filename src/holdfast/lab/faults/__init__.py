"""Reusable fault tools (T1, T2, ...): each injects exactly what it says, and has a test of that."""
