"""One simulator per platform, each proven honest by the platform's own unmodified SDK."""
