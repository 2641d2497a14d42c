"""ONNX -> something that runs: bundles, builders and sessions for ONNX Runtime and TensorRT."""
