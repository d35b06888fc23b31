"""What the outside world is told: the status document, its file, and readers who distrust both."""
