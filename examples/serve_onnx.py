"""Serve an exported projector, without torch and without mobilevlm.

``python serve_onnx.py ldp.onnx 8000`` needs numpy and onnxruntime. What is posted is an array as
`numpy.save` writes it, and so is what comes back.
"""

import io
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        x = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
        np.save(answer := io.BytesIO(), session.run(None, {"x": x})[0])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.getvalue())


ThreadingHTTPServer(("localhost", int(sys.argv[2])), Handler).serve_forever()
