"""The profiler's child process, which measures a member on a device, and its handle."""
