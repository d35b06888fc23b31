"""The whole product, as its users run it."""
