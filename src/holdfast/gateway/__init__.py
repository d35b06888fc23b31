"""The asyncio shell around the pure core: sockets, tasks, timers, and nothing that decides."""
