"""Broken files by the thousand: our error, or exactly the bytes in the file, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.golden import GOLDEN
from safetensors.torch import load_file, save_file

from mobilevlm import build_projector
from mobilevlm.checkpoints.save import save_projector

SCRIPT = """
import collections, json, random, resource, sys
from pathlib import Path

resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
import torch
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.formats.safetensors import SafetensorsFile

torch.set_num_threads(1)
folder, cases = Path(sys.argv[1]), int(sys.argv[2])
files = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
random = random.Random(0)
path = folder / "broken"
outcomes = collections.Counter()


def raw(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def place(data):
    # Half of the time in the header, which is small beside the data.
    header = 8 + int.from_bytes(data[:8], "little")
    return random.randrange(min(header, len(data)) if random.random() < 0.5 else len(data))


def flip(data):
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        data[place(data)] ^= 1 << random.randrange(8)
    return bytes(data)


def truncate(data):
    return data[: place(data)]


def splice(data):
    other = random.choice(files)
    start, at = place(other), place(data)
    piece = other[start : start + random.randrange(1, 200)]
    return data[:at] + piece + data[at + random.choice((0, len(piece))) :]


def digits(data):
    at = [i for i in range(8, 8 + int.from_bytes(data[:8], "little")) if data[i] in b"0123456789"]
    data = bytearray(data)
    for _ in range(random.choice((1, 2))):
        data[random.choice(at)] = random.choice(b"0123456789")
    return bytes(data)


def in_data(data):
    data = bytearray(data)
    data[random.randrange(8 + int.from_bytes(data[:8], "little"), len(data))] ^= 1
    return bytes(data)


def check(data):
    size = int.from_bytes(data[:8], "little")
    body = data[8 + size :]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    expected = {key: body[slice(*entry["data_offsets"])] for key, entry in header.items()}
    shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
    return expected, shapes


for number in range(cases):
    mutate = random.choice((flip, flip, truncate, splice, splice, digits, in_data))
    data = mutate(random.choice(files))
    path.write_bytes(data)
    try:
        file = SafetensorsFile(path)
        tensors = file.read(file.tensors)
    except CheckpointError as error:
        assert str(error).startswith(str(path)), error
        tensors = None
    if tensors is not None:
        expected, shapes = check(data)
        assert {key: raw(tensor) for key, tensor in tensors.items()} == expected, number
        assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == shapes, number
    try:
        inspect_checkpoint(path)
        projector = load_projector(path)
    except CheckpointError:
        outcomes[mutate.__name__, "refused"] += 1
        continue
    assert tensors is not None, number
    state = projector.state_dict()
    assert sorted(map(raw, state.values())) == sorted(expected.values()), number
    outcomes[mutate.__name__, "read"] += 1
print(json.dumps({" ".join(key): count for key, count in sorted(outcomes.items())}))
"""


@pytest.mark.parametrize("cases", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_broken_files(cases: int, tmp_path: Path) -> None:
    for path in GOLDEN.glob("*.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        state = {key[2:]: tensor for key, tensor in load_file(path).items() if key[:2] == "w."}
        save_file(state, tmp_path / f"bare-{path.name}")
    save_projector(build_projector("ldp", 16, 24), tmp_path / "own")
    (tmp_path / "own" / "model.safetensors").rename(tmp_path / "own.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(cases)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("refused") > 4
    assert '"in_data read"' in done.stdout
