"""From a configuration to what the processes are told; everything that does not fit is found."""
