"""Backward passes, written as ONNX nodes behind the forward ones: any runtime takes them."""
