"""The Open Inference Protocol over gRPC: core, calls, methods, codec and the server around them."""

import os

# Before gRPC is first imported: its core would log clients' mistakes to stderr.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
