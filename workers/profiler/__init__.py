"""The profiler process, which measures one member on one device."""
