"""What the gateway answers over HTTP: today to the command line, on a Unix socket."""
