"""What a finished run hands on: `model_card`, `checklist` (TRIPOD+AI, CLAIM) networks as ONNX (`exporting`), and
itself behind HTTP (`serve`). `scorer` answers unlabelled files, for predict and serve alike."""
