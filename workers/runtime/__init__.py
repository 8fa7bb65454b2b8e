"""What all processes share: specs, shared memory, messages, logs, and how children start."""
