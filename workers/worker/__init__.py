"""The worker process of one device, which runs the batches of its instances."""
