"""The Open Inference Protocol over HTTP: bodies in, answers out, the documents beside."""
