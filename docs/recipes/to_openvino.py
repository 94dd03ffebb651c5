"""OpenVINO from an ONNX file: ``python to_openvino.py projector.onnx projector.xml``.

Needs ``pip install openvino``. Free axes of the ONNX file stay free.
"""

import sys

import numpy as np
import openvino

source, target = sys.argv[1:]
# The default would convert the weights to half precision.
openvino.save_model(openvino.convert_model(source), target, compress_to_fp16=False)

# The default on a processor with bf16 or fp16 is to compute in that precision.
compiled = openvino.compile_model(target, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
shape = [axis.get_length() if axis.is_static else 24 for axis in compiled.input(0).partial_shape]
x = np.random.default_rng(0).standard_normal([1, *shape[1:]], dtype=np.float32)
print(f"{x.shape} -> {compiled(x)[0].shape}")
