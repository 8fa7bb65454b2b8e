"""The Open Inference Protocol over gRPC: messages, codec, methods and the server around them."""
