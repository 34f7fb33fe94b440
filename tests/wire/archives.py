"""Models, and torch archives of them in every format; what tests of archives share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import torch
from torch import nn

from gridkit.wire.tensors import Array
from gridkit.wire.torch_archive import TorchArchive


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 5)
        self.out = nn.Linear(5, 3, bias=False)
        self.register_buffer("scratch", torch.ones(4), persistent=False)
        self.plain = torch.full((3,), 7.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (Mlp, (2, 6)),
    "cnn": (Cnn, (2, 1, 6, 6)),
    "tied": (Tied, (2, 4)),
}


def saved(value: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def scripted(model: torch.jit.ScriptModule) -> bytes:
    file = io.BytesIO()
    torch.jit.save(model, file)
    return file.getvalue()


FORMATS: dict[str, Callable[[nn.Module, tuple[int, ...]], bytes]] = {
    "state_dict": lambda model, shape: saved(model.state_dict()),
    "module": lambda model, shape: saved(model),
    "torchscript": lambda model, shape: scripted(torch.jit.script(model)),
    "traced": lambda model, shape: scripted(torch.jit.trace(model.eval(), torch.zeros(shape))),
}
CASES = [(name, form) for name in MODELS for form in FORMATS]


def model_of(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS[name][0]()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    return model


def archive_of(name: str, form: str, seed: int = 0) -> bytes:
    return FORMATS[form](model_of(name, seed), MODELS[name][1])


def opened(data: bytes) -> TorchArchive:
    return TorchArchive(io.BytesIO(data))


def values_of(archive: TorchArchive) -> dict[str, Array]:
    return {
        spec.name: archive.read(place, 0, spec.size).reshape(spec.shape) for place, spec in enumerate(archive.specs)
    }


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None  # every CRC is right
        return {name: file.read(name) for name in file.namelist()}


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return file.getvalue()


def loaded_state(data: bytes, form: str) -> dict[str, torch.Tensor]:
    """What torch reads; only ever of archives that these tests made."""
    if form == "state_dict":
        return torch.load(io.BytesIO(data), weights_only=True)
    if form == "module":
        ours = [Mlp, Cnn, Tied, nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Sequential, set]
        with torch.serialization.safe_globals(ours):
            return torch.load(io.BytesIO(data), weights_only=True).state_dict()
    return torch.jit.load(io.BytesIO(data)).state_dict()
