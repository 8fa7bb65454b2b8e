"""What the protocols share: requests, tensors and images in, answers out."""
