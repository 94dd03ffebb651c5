"""`transformers serve` on folders of swapped models, asked by OpenAI's client."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from helpers import vlms
from helpers.swapped import image_token, swap
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from mobilevlm.models.hosts import HOSTS, counter_of

# One whose own processor counts right once it is told, and one whose processor is of our class.
SWAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": ("c-abstractor", {"queries": 4, "hidden": 32, "depth": 1}),
    "llava_next": ("ldp", {}),
}
TEMPLATE = (
    "{%- for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %} {{ part['text'] }} {% else %}IMAGE{% endif %}"
    "{% endfor %}{% endfor %}"
)
SERVE = ["-m", "transformers.cli.transformers"]
WITH_US = ["-c", "import mobilevlm.models; from transformers.cli.transformers import main; main()"]
REMOTE = "--trust-remote-code"
NEW_TOKENS = 8
START = 240  # seconds that a server may take to be there


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each swapped model with its processor, which has a chat template."""
    found = {}
    for host, (name, options) in SWAPS.items():
        torch.manual_seed(2048)
        swapped = swap(host, name, **options)
        swapped.processor.chat_template = TEMPLATE.replace("IMAGE", vlms.prompt(swapped.processor))
        found[host] = tmp_path_factory.mktemp("served") / host
        # No answer may hold a placeholder, which a server would take for an image's.
        swapped.model.generation_config.suppress_tokens = [image_token(swapped.model)]
        swapped.model.save_pretrained(found[host])
        swapped.processor.save_pretrained(found[host])
    return found


@dataclass(frozen=True)
class Server:
    client: openai.OpenAI
    model: str

    def ask(self, picture: Any, **kwargs: Any) -> Any:
        return self.client.chat.completions.create(
            model=self.model,
            messages=chat(picture),
            max_tokens=NEW_TOKENS,
            **kwargs,
        )


def chat(picture: Any, kind: str = "image_url") -> Any:
    """Return a question on a picture, which stands in the message itself."""
    file = io.BytesIO()
    picture.save(file, "png")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    image = {"url": url} if kind == "image_url" else url
    parts = [{"type": kind, kind: image}, {"type": "text", "text": "what is it ?"}]
    return [{"role": "user", "content": parts}]


@contextmanager
def serve(folder: Path, python: list[str], *words: str) -> Iterator[Server]:
    """Start the command, wait until it answers, and end it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(folder, python, "--port", str(port), "--device", "cpu", *words) as process:
        until = time.monotonic() + START
        while not answers(f"http://localhost:{port}/health"):
            assert process.poll() is None, log(folder)
            assert time.monotonic() < until, log(folder)
            time.sleep(0.2)
        client = openai.OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none")
        yield Server(client, str(folder))


@contextmanager
def start(folder: Path, python: list[str], *words: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder.parent / "modules"),
        "OMP_NUM_THREADS": "1",
    }
    with (
        folder.with_suffix(".log").open("wb") as out,
        subprocess.Popen(
            [sys.executable, *python, "serve", str(folder), *words],
            cwd=folder.parent,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def log(folder: Path) -> str:
    return folder.with_suffix(".log").read_text("utf-8")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def pictures() -> list[Any]:
    """Return a square, a wide and a tall picture."""
    return vlms.pictures((48, 48), (48, 96), (96, 48))


def expected(folder: Path, picture: Any) -> tuple[str, int]:
    """Return what the model itself says of a picture, and how long the prompt is."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    [message] = chat(picture)
    message["content"][0] = {"type": "image"}
    text = processor.apply_chat_template([message], tokenize=False)
    inputs = processor(images=[picture], text=[text], return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return processor.decode(said[0, length:], skip_special_tokens=True), length


@pytest.mark.parametrize(
    ("host", "python", "words"),
    [
        *((host, SERVE, [REMOTE]) for host in SWAPS),
        ("llava", WITH_US, []),
        ("llava_next", WITH_US, []),
    ],
    ids=[*SWAPS, "llava-registered", "llava_next-registered"],
)
def test_the_server_says_what_the_model_says(
    host: str, python: list[str], words: list[str], folders: dict[str, Path]
) -> None:
    folder = folders[host]
    said = {expected(folder, picture) for picture in pictures()}
    assert len({text for text, _ in said}) > 1  # what is said depends on the picture
    with serve(folder, python, *words) as server:
        for picture in pictures():
            text, length = expected(folder, picture)
            reply = server.ask(picture)
            assert reply.choices[0].message.content == text, log(folder)
            assert reply.usage.prompt_tokens == length
            stream = server.ask(picture, stream=True)
            assert "".join(part.choices[0].delta.content or "" for part in stream) == text


def test_without_trust_and_without_us_nothing_is_served(folders: dict[str, Path]) -> None:
    folder = folders["llava_next"]
    with start(folder, SERVE) as process:
        assert process.wait(START) == 1
    assert "Please pass the argument `trust_remote_code=True`" in log(folder)


@pytest.mark.parametrize("host", SWAPS)
def test_a_pipeline_takes_the_same_chat(host: str, folders: dict[str, Path]) -> None:
    ask = pipeline("image-text-to-text", str(folders[host]), device="cpu")
    for picture in pictures():
        text, _ = expected(folders[host], picture)
        messages = chat(picture, "image")
        [said] = ask(text=messages, max_new_tokens=NEW_TOKENS, return_full_text=False)
        assert said["generated_text"].strip() == text  # it cuts the prompt off the text


def test_there_is_a_host_of_each_kind() -> None:
    kinds = {host: counter_of(HOSTS[host]).mixin for host in SWAPS}
    assert [kind is None for kind in kinds.values()] == [True, False]
