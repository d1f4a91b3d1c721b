"""onnx-reap: prune channels of trained ONNX models and repair the rest by least squares."""
