"""The journal: what was received, what is owed, and how far each platform's stream was read."""
