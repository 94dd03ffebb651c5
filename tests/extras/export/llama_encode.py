"""Encode an image with llama.cpp: ``python llama_encode.py MMPROJ.gguf IMAGE.npy OUT.npy``.

A program of its own: where a file is wrong, llama.cpp ends the process. The image is (h, w, 3) of
bytes, and is not resized if it has the file's size.
"""

import ctypes
import sys

import numpy as np
from llama_cpp import mtmd_cpp as mtmd


def encode(mmproj: str, image: np.ndarray) -> np.ndarray:
    parameters = mtmd.mtmd_context_params_default()
    parameters.use_gpu = False
    parameters.n_threads = 2
    parameters.warmup = False
    context = mtmd.mtmd_init_from_file(mmproj.encode(), None, parameters)
    if not context:
        raise SystemExit("llama.cpp does not load it")
    h, w, _ = image.shape
    pixels = (ctypes.c_uint8 * image.size).from_buffer_copy(image.tobytes())
    bitmap = mtmd.mtmd_bitmap_init(w, h, pixels)
    part = mtmd.mtmd_input_part(None, bitmap)
    parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
    chunks = mtmd.mtmd_input_chunks_init()
    if mtmd.mtmd_tokenize_from_parts(context, chunks, parts, 1, False):
        raise SystemExit("llama.cpp does not take the image")
    found = []
    for index in range(mtmd.mtmd_input_chunks_size(chunks)):
        chunk = mtmd.mtmd_input_chunks_get(chunks, index)
        if mtmd.mtmd_input_chunk_get_type(chunk) != mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            continue
        tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        if mtmd.mtmd_encode_chunk(context, chunk):
            raise SystemExit("llama.cpp does not encode it")
        width = WIDTH
        y = mtmd.mtmd_get_output_embd(context)
        found.append(np.ctypeslib.as_array(y, (tokens * width,)).reshape(tokens, width).copy())
    [result] = found
    return result


if __name__ == "__main__":
    mmproj, image, out, width = sys.argv[1:]
    WIDTH = int(width)
    np.save(out, encode(mmproj, np.load(image)))
