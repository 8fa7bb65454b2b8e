"""Selection against its baselines on small public tasks, in the manner of the AutoML benchmark."""
