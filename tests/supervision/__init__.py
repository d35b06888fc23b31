"""The supervision core, tested alone: no I/O, no event loop, a clock turned by hand."""
