"""Ways to use a detector: HTTP service (`app`, `run`), cloud functions, ONNX export, bulk and streaming scoring.

The service scores with `Detector.score_one` alone. It needs the extra `serve`.
"""
