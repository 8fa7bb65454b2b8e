"""The worker process of a device, which runs the batches of its instances."""
