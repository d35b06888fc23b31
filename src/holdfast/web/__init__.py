"""What the gateway answers over HTTP: commands on a Unix socket, browsers and programs on TCP."""
