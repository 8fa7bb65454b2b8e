"""The processes, the ports and the signals: what the supervisor does."""
