"""PyTorch -> ONNX: the model catalogue, checkpoints, one wrapper file per module, and parity with upstream."""
