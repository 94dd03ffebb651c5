"""Serve an exported projector, without torch and without mobilevlm.

``python serve_onnx.py ldp.onnx 8000`` needs numpy and onnxruntime. What is posted is an array as
`numpy.save` writes it, and so is what comes back.
"""

import io
import sys
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import make_server

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])


def serve(request: dict[str, Any], start: Callable[..., object]) -> list[bytes]:
    """Answer one request, as WSGI has it."""
    x = np.load(io.BytesIO(request["wsgi.input"].read(int(request["CONTENT_LENGTH"]))))
    np.save(answer := io.BytesIO(), session.run(None, {"x": x})[0])
    start("200 OK", [("Content-Type", "application/octet-stream")])
    return [answer.getvalue()]


make_server("localhost", int(sys.argv[2]), serve).serve_forever()
