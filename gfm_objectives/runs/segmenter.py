"""A fine-tuned model that is kept: weights as safetensors, all that using it takes as JSON. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gfm_objectives import disk
from gfm_objectives.batch import Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models import build_encoder, shape_of
from gfm_objectives.models.map_context import MapContext
from gfm_objectives.models.map_input import WithMap, spec_with_map
from gfm_objectives.models.pixel import PixelMLP
from gfm_objectives.models.segmenter import Segmenter
from gfm_objectives.models.unet import Resnet34, UNet
from gfm_objectives.sensors import Legend, calibration, relisted

FORMAT = 1
CARD, WEIGHTS = "model.json", "model.safetensors"
FAMILIAR = "familiar."  # prefix of the tensors that say what the model has seen


@dataclass(frozen=True, slots=True)
class Card:
    """All of a kept model but its weights; whatever reads files for it, judges it or hands it on needs nothing else.

    spec: what it reads, with the legend of its task (and of the map where it reads one); channels: outputs a pixel;
    network: how to build it, see `describe`; task: name, kind, layer, metric, and offset and scale of a regression;
    levels: sensor -> level its images had (L1C), where it had one; days: sensor -> [first, last] day since 2000-01-01
    of what it was trained on, absent where the data had no dates; reading: sensor -> how the files of its training data
    were read (file, bands, scale, ...), absent for made-up data; scores: the task's metrics on val and test;
    temperature: its logits are divided by it; calibration: expected calibration error and reliability on test, before
    and after; areas: area of the test split -> its summed statistic; provenance: who made it of what, for how much.
    """

    spec: Spec
    channels: int
    network: Mapping[str, Any]
    task: Mapping[str, Any]
    levels: Mapping[str, str] = field(default_factory=dict)
    days: Mapping[str, list[float]] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    temperature: float = 1.0
    calibration: Mapping[str, Any] = field(default_factory=dict)
    areas: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def legend(self) -> Legend:
        return self.spec.legends[self.task["layer"]]

    @property
    def reads_map(self) -> bool:
        return self.network["kind"] in ("with_map", "context")

    def figures(self) -> dict[str, dict[str, list[float]]]:
        """sensor -> band -> [mean, deviation] that its values are normalised by, in the sensor's unit."""
        out = {}
        for sensor, names in self.spec.bands.items():
            table = calibration(sensor, self.levels.get(sensor, ""))
            bands = {b.name: b for b in table.bands}
            out[sensor] = {n: [bands[n].mean, bands[n].std] for n in names}
        return out


@dataclass(frozen=True, slots=True)
class FineTuned:
    """A kept model: `network` (Batch -> (B, channels, H, W) before division by the card's temperature), its `card`,
    and `familiar`: mean (D,), whiten (D, D) and quantiles (Q,) of what its head read in training, empty if not kept."""

    network: nn.Module
    card: Card
    familiar: dict[str, Tensor] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------------------
# Networks as JSON


def describe(network: nn.Module, foreign: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `build` makes the same network of; foreign: name and size of an encoder of others, which does not tell."""
    from gfm_objectives.models.foreign import ForeignSegmenter

    match network:
        case WithMap():
            return {"kind": "with_map", "classes": network.classes, "model": describe(network.model, foreign)}
        case Segmenter():
            encoder = network.encoder
            options: dict[str, Any] = json.loads(shape_of(encoder)) | dict(encoder.options)
            bands = {s: list(b) for s, b in encoder.bands.items()}
            dates = getattr(encoder, "dates", None)  # a U-Net stacks those it was made for
            kernel = network.head.kernel_size[0]
            return {"kind": "segmenter", "encoder": options, "bands": bands, "dates": dates, "kernel": kernel}
        case UNet():
            return {"kind": "unet", **network.options, "resnet34": isinstance(network.encoder, Resnet34)}
        case PixelMLP():
            return {"kind": "pixel", **network.options}
        case MapContext():
            return {"kind": "context", **network.options}
        case ForeignSegmenter():
            assert foreign, "an encoder of others is known by its name alone"
            bands = {s: list(b) for s, b in network.stem.embed.bands.items()}
            return {"kind": "foreign", **foreign, "ours": {**network.options, "bands": bands, "side": network.size}}
    raise AssertionError(f"no description of a {type(network).__name__}")


def build(about: Mapping[str, Any], spec: Spec, channels: int) -> nn.Module:
    """The untrained network of a description, for `spec`."""
    options = {k: v for k, v in about.items() if k != "kind"}
    match about["kind"]:
        case "with_map":
            return WithMap(build(about["model"], spec_with_map(spec), channels), about["classes"])
        case "segmenter":
            known = replace(spec, bands={s: tuple(b) for s, b in about["bands"].items()})
            known = replace(known, dates=about["dates"] or known.dates)
            return Segmenter(build_encoder(about["encoder"], known), channels, about["kernel"])
        case "unet" if options.pop("resnet34"):
            return _unet_of_resnet34(spec, channels, options)
        case "unet":
            options.pop("resnet34", None)
            return UNet(spec, channels, **options)
        case "pixel":
            return PixelMLP(spec, channels, **options)
        case "context":
            return MapContext(spec, channels, **options)
        case "foreign":
            from gfm_objectives.models.foreign import ForeignSegmenter, open_backbone

            ours = options.pop("ours", {})  # what was kept before has the defaults
            known = replace(spec, size=ours.pop("side", spec.size))
            backbone = open_backbone(known, **options)
            bands = ours.pop("bands", spec.bands)
            known = replace(known, bands={s: tuple(b) for s, b in bands.items()})
            return ForeignSegmenter(backbone, known, channels, **ours)
    raise InputError(f"a network of kind {about['kind']!r}: not known; upgrade gfm-objectives")


def _unet_of_resnet34(spec: Spec, channels: int, options: dict[str, Any]) -> UNet:
    """Its shape comes with a file of weights: here untrained ones, which the kept ones then replace."""
    from segmentation_models_pytorch.encoders import get_encoder

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.safetensors"
        state = get_encoder("resnet34", in_channels=3, depth=options["levels"] + 1, weights=None).state_dict()
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        return UNet(spec, channels, weights=path, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def save_segmenter(model: FineTuned, folder: str | Path) -> Path:
    """Write model.json and model.safetensors into `folder`, the card last: whoever finds it finds the weights too."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in _weights(model.network).state_dict().items()}
    tensors |= {FAMILIAR + k: v.contiguous() for k, v in model.familiar.items()}
    disk.write_tensors(folder / WEIGHTS, tensors)
    card = model.card
    legends = {k: asdict(v) for k, v in card.spec.legends.items() if k in (card.task["layer"], "map")}
    spec = asdict(card.spec) | {"legends": legends}
    rest = {f.name: getattr(card, f.name) for f in fields(Card) if f.name != "spec"}
    about = {"format": FORMAT, "spec": spec, **rest, "figures": card.figures()}
    disk.write(folder / CARD, json.dumps(about, indent=1) + "\n")
    return folder


def read_card(path: str | Path) -> Card:
    """The card of a kept model, given its folder. InputError where there is none, or it cannot be used here."""
    path = Path(path)
    file = path / CARD
    if not file.is_file():
        near = "a pretraining run; gfm finetune checkpoint=... task=... makes a model of it"
        hint = near if (path / "encoder.json").exists() else "give a folder that gfm finetune wrote"
        raise InputError(f"model={path}: no {CARD} in it: {hint}")
    try:
        about = json.loads(file.read_text())
        if about.pop("format") > FORMAT:
            raise InputError(f"{file}: written by a newer gfm-objectives; upgrade")
        figures, spec = about.pop("figures"), about.pop("spec")
        bands = {s: tuple(b) for s, b in spec["bands"].items()}
        legends = {k: _legend(v) for k, v in spec["legends"].items()}
        relisted(about.get("levels", {}), figures)
        card = Card(Spec(**spec | {"bands": bands, "legends": legends}), **about)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(f"{file}: damaged: {(str(e).splitlines() or ['?'])[0]}; keep the model again") from e
    for sensor, own in card.figures().items():
        if own != figures.get(sensor):
            raise InputError(
                f"{file}: trained with other means and deviations of {sensor} than this version has; keep it again, or "
                "use the version that made it"
            )
    return card


def load_segmenter(path: str | Path) -> FineTuned:
    """A kept model, in eval mode on the CPU. InputError where files are missing, damaged or do not belong together."""
    path, card = Path(path), read_card(path)
    try:
        state = load_file(path / WEIGHTS)
        familiar = {k.removeprefix(FAMILIAR): state.pop(k) for k in list(state) if k.startswith(FAMILIAR)}
        network = build(card.network, card.spec, card.channels)
        _weights(network).load_state_dict(state)
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
        first = (str(e).splitlines() or ["?"])[0]
        raise InputError(f"{path}: {CARD} and {WEIGHTS} are damaged or do not match: {first}") from e
    return FineTuned(network.eval(), card, familiar)


def digest(path: str | Path) -> str:
    """Of all that is in a model's folder and decides what it says."""
    files = sorted(p for p in Path(path).iterdir() if p.name in (CARD, WEIGHTS) or p.suffix == ".onnx")
    return hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()[:16]


def _weights(network: nn.Module) -> nn.Module:
    """Whose state is kept: a wrapper that shows the map lists every tensor twice."""
    return network.model if isinstance(network, WithMap) else network


def _legend(about: Mapping[str, Any]) -> Legend:
    return Legend(**{k: tuple(v) if isinstance(v, list) else v for k, v in about.items()})  # type: ignore[arg-type]
