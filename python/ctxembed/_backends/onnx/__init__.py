"""Models as ONNX graphs: folders as Hugging Face has them, run by onnxruntime."""
