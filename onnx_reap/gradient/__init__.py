"""Backward passes, written as ONNX nodes behind the forward ones, so that any runtime takes them."""
