"""Published architectures as ONNX models with seeded random weights; the table of all is in benchmarks/zoo.py."""
