"""What each platform can play: a module a platform, each with its `PROFILE`."""
