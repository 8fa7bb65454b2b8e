"""Access control of clients and encryption of connections."""
