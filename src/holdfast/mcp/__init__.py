"""The accounts for language models, by the Model Context Protocol: a view of the control API."""
