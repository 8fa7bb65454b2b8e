"""What every process of the server shares: the arena, the queues, child processes, the log."""
