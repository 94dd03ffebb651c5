"""A projector where it belongs: between image features and a language model, and learning there.

The language model is a toy, and frozen. Four images, one question, four answers: the only way to
bring the loss down is to tell the model, through the image tokens, which image it looks at. Into a
model of transformers, `swap_projector` puts a projector: see docs/models.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm import Projector, build_projector

WORDS = ["<image>", "what", "is", "it", "?", "cat", "dog", "ship", "moon"]
IDS = {word: index for index, word in enumerate(WORDS)}
VISION, TEXT = 48, 64  # widths of the image features and of the language model
GRID = (8, 8)


class ToyLM(nn.Module):
    """A small causal language model on embeddings; ``(b, n, d) -> (b, n, words)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), TEXT)
        layer = nn.TransformerEncoderLayer(TEXT, 4, 4 * TEXT, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(TEXT, len(WORDS))

    def forward(self, embedded: Tensor) -> Tensor:
        """Predict the next word at every position."""
        mask = nn.Transformer.generate_square_subsequent_mask(embedded.shape[1])
        logits: Tensor = self.head(self.layers(embedded, mask=mask, is_causal=True))
        return logits


class ToyVLM(nn.Module):
    """A projector in front of a language model."""

    def __init__(self, projector: Projector, lm: ToyLM) -> None:
        super().__init__()
        self.projector = projector
        self.lm = lm

    def splice(self, ids: Tensor, features: Tensor) -> Tensor:
        """Put the image tokens where ``<image>`` stands; ``(b, n), (b, m, c) -> (b, n', d)``."""
        at = int((ids[0] == IDS["<image>"]).nonzero())  # the same place in every row
        text, image = self.lm.embed(ids), self.projector(features)
        return torch.cat([text[:, :at], image, text[:, at + 1 :]], dim=1)

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """Predict the next word at every position, image tokens included."""
        logits: Tensor = self.lm(self.splice(ids, features))
        return logits


def main() -> None:
    """Run the model once, then train its projector for 20 steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a toy this small only waits for a second thread
    model = ToyVLM(build_projector("ldp", VISION, TEXT, grid=GRID), ToyLM())

    answers = torch.tensor([IDS[word] for word in ("cat", "dog", "ship", "moon")])
    question = [IDS[word] for word in ("<image>", "what", "is", "it", "?")]
    ids = torch.tensor([question] * len(answers))
    features = torch.randn(len(answers), GRID[0] * GRID[1], VISION)  # from a vision encoder

    with torch.no_grad():
        print("word ids      ", tuple(ids.shape))
        print("image features", tuple(features.shape))
        print("image tokens  ", tuple(model.projector(features).shape))
        print("spliced       ", tuple(model.splice(ids, features).shape))
        print("logits        ", tuple(model(ids, features).shape))

    model.lm.requires_grad_(False)
    before = [parameter.clone() for parameter in model.lm.parameters()]
    optimizer = torch.optim.AdamW(model.projector.parameters(), lr=5e-3)
    print(f"\nTraining the projector alone; blind guessing among 4 answers costs {math.log(4):.2f}")
    for step in range(21):
        loss = F.cross_entropy(model(ids, features)[:, -1], answers)
        if step % 5 == 0:
            print(f"step {step:2}  loss {loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    same = all(map(torch.equal, before, model.lm.parameters()))
    said = model(ids, features)[:, -1].argmax(-1)
    print("The language model is unchanged:", same)
    print("It answers:", ", ".join(WORDS[index] for index in said))


if __name__ == "__main__":
    main()
