"""What both protocols share: infer requests, tensors and images in, outputs out."""
