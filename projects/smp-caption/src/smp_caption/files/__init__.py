"""The original's files and ONNX graphs: recognised, read, written, and searched without PyTorch."""
