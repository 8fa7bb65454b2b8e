"""The Open Inference Protocol over gRPC: messages, codec, methods and the server around them."""

import os

# Before gRPC is imported for the first time: what clients do wrong is told to them, and its core
# would write lines of its own about it to stderr.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
