"""Names of ONNX's own domain."""

STANDARD_DOMAINS = ("", "ai.onnx", None)
