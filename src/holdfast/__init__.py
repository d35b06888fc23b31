"""Holdfast: a chat-bot gateway whose platform connections never silently die."""

__version__ = "0.1.0"
