"""ONNX graphs: reading, editing and the reference computation."""
