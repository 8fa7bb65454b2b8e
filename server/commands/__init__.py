"""What the command line does, a module per command; `server.cli` imports one when it runs."""
