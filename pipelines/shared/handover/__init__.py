"""What a finished run hands on: `model_card`, `checklist` (TRIPOD+AI, CLAIM) and networks as ONNX (`exporting`)."""
