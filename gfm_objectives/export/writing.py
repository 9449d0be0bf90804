"""`gfm export`: a kept model or a pretrained encoder in other programs' formats, checked where they can be loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from gfm_objectives import disk, lock
from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.export import card as cards
from gfm_objectives.export import libraries, programs
from gfm_objectives.export.plain import ImageEncoder, Plain
from gfm_objectives.runs.checkpoint import load_model
from gfm_objectives.runs.folder import refuse_others
from gfm_objectives.runs.ledger import Ledger
from gfm_objectives.runs.segmenter import CARD, WEIGHTS, Card, load_segmenter

SIZE = 64  # pixels a side of the images that libraries' classes are tried with
FORMATS = ("native", "torch", "onnx", "timm", "torchgeo", "terratorch", "pangaea")
GRAPHS = ("torch", "onnx")
OF_ENCODERS = ("timm", "torchgeo", "terratorch", "pangaea")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported. features: of an encoder; card: of a kept model; folder: where it came from."""

    network: nn.Module
    spec: Spec
    folder: Path
    card: Card | None = None

    @property
    def features(self) -> bool:
        return self.card is None


def run(cfg: DictConfig) -> Path:
    """Export what `cfg` (configs/export.yaml) names; returns the folder."""
    if unknown := [t for t in cfg.to if t not in FORMATS]:
        raise InputError(f"to={unknown[0]}: choose from {', '.join(FORMATS)}")
    subject = _subject(cfg)
    if not subject.features and (wrong := [t for t in cfg.to if t in OF_ENCODERS]):
        raise InputError(f"to={wrong[0]}: takes a pretrained encoder (checkpoint=), not a fine-tuned model")
    results = None if cfg.results is None else Path(cfg.results)
    if results and not subject.features:
        raise InputError("results=: is of encoders; a kept model's card has the scores it was kept with")
    if results:
        cards.gains(subject.folder, results)  # before anything is written
    out = Path(cfg.out) / cfg.name
    if out.resolve() == subject.folder.resolve():
        raise InputError(f"out={out}: is where the model lies; give another name=")
    if not (out / "exports.json").exists():
        refuse_others(out, "an export")
    with lock.alone(out):
        _write(subject, out, cfg, results)
    print(f"  -> {out}")
    return out


def _write(subject: Subject, out: Path, cfg: DictConfig, results: Path | None) -> None:
    done = []
    disk.write(out / "exports.json", "[]\n")  # an interrupted export goes on in its own folder
    for to in cfg.to:
        if to in GRAPHS:
            took = "some seconds for each freedom of its inputs, of an encoder minutes"
            print(f"{to}: tracing the model, which takes {took}", flush=True)
        done.append({"to": to, **_export(to, subject, out, cfg)})
        print(f"{to}: {done[-1]['files']}; {done[-1]['checked']}", flush=True)
    if subject.card is not None:
        text = cards.of_segmenter(subject.card, done)
    else:
        ledger = Ledger.read(subject.folder / "ledger.json")
        text = cards.of_encoder(subject.folder, ledger, subject.spec.bands, done, results)
    disk.write(out / "README.md", text)
    disk.write(out / "exports.json", json.dumps(done, indent=1) + "\n")


def _subject(cfg: DictConfig) -> Subject:
    if (cfg.model is None) == (cfg.checkpoint is None):
        raise InputError("give model= (a folder of gfm finetune) or checkpoint= (a pretraining run), one of them")
    if cfg.model is not None:
        kept = load_segmenter(cfg.model)
        if kept.card.reads_map and {"torch", "onnx"} & {*cfg.to}:
            raise InputError(
                f"model={cfg.model}: reads the map too, which graphs do not take; to=native keeps it whole"
            )
        return Subject(kept.network, kept.card.spec, Path(cfg.model), kept.card)
    encoder = load_model(cfg.checkpoint)
    dates = dict(getattr(encoder, "dates", None) or dict.fromkeys(encoder.bands, cfg.dates))
    bands = {s: tuple(b) for s, b in encoder.bands.items() if s != "map"}
    return Subject(encoder, Spec(bands, dates, cfg.size, 10.0, {}), Path(cfg.checkpoint))


def _export(to: str, s: Subject, out: Path, cfg: DictConfig) -> Mapping[str, Any]:
    """Files and how they were checked."""
    match to:
        case "native":
            names = ("encoder.json", "encoder.safetensors", "ledger.json") if s.features else (CARD, WEIGHTS)
            for name in names:
                disk.copy(s.folder / name, out / name)
            return {"files": ", ".join(names), "checked": "a copy", "error": 0.0}
        case "torch":
            plain, path = Plain(s.network, s.spec, s.features).eval(), out / "model.pt2"
            freedom = programs.save_program(plain, s.spec, path)
            error = programs.error_of_program(plain, s.spec, path, programs.freedoms(s.spec)[freedom])
            return _checked(path, plain, freedom, error, f"torch {torch.__version__}")
        case "onnx":
            plain, path = Plain(s.network, s.spec, s.features).eval(), out / "model.onnx"
            freedom = programs.save_onnx(plain, s.spec, path)
            if not s.features:
                disk.copy(s.folder / CARD, out / CARD)  # so that gfm predict reads it
            error = programs.error_of_onnx(plain, s.spec, path, programs.freedoms(s.spec)[freedom])
            return _checked(path, plain, freedom, error, f"onnxruntime {version('onnxruntime')}")
        case "pangaea":
            files = libraries.write_pangaea(s.folder, out, cfg.sensor)
            return {"files": ", ".join(p.name for p in files), "checked": "not loaded in the library"}
    return _library(to, s, cfg.sensor)


def _checked(path: Path, plain: Plain, freedom: str, error: float, by: str) -> dict[str, Any]:
    inputs = ", ".join(plain.names())
    return {
        "files": path.name,
        "inputs": inputs,
        "free": freedom,
        "error": error,
        "checked": f"{by}, {freedom}, largest relative difference {error:.1e}; inputs {inputs}",
    }


def _library(to: str, s: Subject, sensor: str) -> dict[str, Any]:
    """Nothing is written: their classes open the run folder. Loaded in the library, and compared with the encoder."""
    image: ImageEncoder = libraries.open_image_encoder(s.folder, sensor)
    x = torch.rand(2, len(image.bands), SIZE, SIZE)
    with torch.inference_mode():
        wanted = image(x)
        match to:
            case "timm":
                import timm

                libraries.register_timm()
                got = timm.create_model("gfm_encoder", folder=str(s.folder), sensor=sensor).forward_features(x)  # type: ignore[operator]
                how = "timm.create_model('gfm_encoder', folder=...) after export.libraries.register_timm(); no "
                how += "VisionTransformer: the whole encoder behind timm's interface"
            case "torchgeo":
                record = libraries.torchgeo_weights(s.folder, sensor)
                got = libraries.torchgeo_model(record)(x)
                how = f"export.libraries.torchgeo_weights, torchgeo_model: {record.meta['in_chans']} bands"
            case _:
                if loaded := find_spec("terratorch") is not None:
                    from terratorch.registry import BACKBONE_REGISTRY

                    libraries.register_terratorch()
                    levels = BACKBONE_REGISTRY.build("gfm_encoder", folder=str(s.folder), sensor=sensor)
                else:
                    levels = libraries.TerraTorchEncoder(image)
                got = levels(x)[0]
                how = "backbone: gfm_encoder after export.libraries.register_terratorch()"
    error = float((got - wanted).abs().max() / wanted.abs().max())
    if to == "terratorch" and not loaded:
        return {"files": how, "checked": "not loaded in the library", "error": error}
    return {"files": how, "checked": f"{to} {version(to)}, largest relative difference {error:.1e}", "error": error}
