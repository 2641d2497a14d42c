"""SAM 2 tracking compiled to TensorRT."""
