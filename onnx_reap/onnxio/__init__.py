"""Files, sessions and element types of ONNX models."""
