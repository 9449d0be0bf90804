"""An encoder of others as one that is pretrained here: published weights go on learning, by an objective of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gfm_objectives.batch import Batch, Series, Spec
from gfm_objectives.errors import InputError
from gfm_objectives.models.backbones import Panopticon
from gfm_objectives.models.encoder import Encoded
from gfm_objectives.models.foreign import ForeignSegmenter, open_backbone
from gfm_objectives.models.masking import Mask, images
from gfm_objectives.models.stem import spread


class Continued(nn.Module):
    """Batch -> Encoded, of the sensors and bands of `spec`, as a ForeignSegmenter without its head.

    of: torchgeo:<name> or timm:<name>; size: pixels a side that images are resized to, None = as it was published;
    weights: the published file, None = random; dim, heads, cell_dim, width: of what is ours around it. What is hidden
    is shown as pixels that are not valid and have their band's mean: all its patches are worked on. InputError as of
    `open_backbone`.
    """

    def __init__(
        self,
        spec: Spec,
        of: str,
        size: int | None,
        dim: int,
        heads: int,
        cell_dim: int,
        width: int,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = dict(of=of, size=size, dim=dim, heads=heads, cell_dim=cell_dim, width=width)
        self.spec, self.bands, self.dates = spec, dict(spec.bands), dict(spec.dates)
        self.dim, self.width = dim, width
        self.net = ForeignSegmenter(open_backbone(spec, of, size, weights), spec, 0, dim, heads, cell_dim, width)
        self.patch = self.net.patch

    @classmethod
    def from_config(cls, options: Mapping[str, Any], spec: Spec) -> Continued:
        """Of `configs/encoder/published.yaml`. InputError for widths that do not fit."""
        dim, heads, cell_dim = (options[k] for k in ("dim", "heads", "cell_dim"))
        if dim % 8 or cell_dim % 8 or dim % heads:
            raise InputError(
                f"encoder: cell_dim={cell_dim}, dim={dim}, heads={heads} do not fit: cell_dim and dim must be "
                "multiples of 8, and dim one of heads"
            )
        known = ("of", "size", "dim", "heads", "cell_dim", "width", "weights")
        try:
            return cls(spec, **{k: options.get(k) for k in known})  # type: ignore[arg-type]
        except InputError as error:  # in the keys of gfm eval
            typed = str(error).replace("encoder=", "encoder.of=").replace("encoder_size=", "encoder.size=")
            raise InputError(typed) from None

    def forward(self, batch: Batch, mask: Mask | None = None) -> Encoded:
        """mask: of positions, hidden at every date of every sensor; None = all is seen."""
        return self.net.encode(batch if mask is None else hide(batch, spread(mask.hidden, self.patch)))

    def features(self, batch: Batch) -> Tensor:
        """Features at full resolution, (B, width, H, W), of all that the batch shows."""
        return self(batch).dense

    def segmenter(self, spec: Spec, classes: int) -> ForeignSegmenter:
        """A network for what `spec` shows, with a new head, that keeps what was learned, its scale too; a band or
        sensor that is new begins as that of `Encoder.extend`. InputError where the published part was fitted to the
        bands that it was pretrained with here."""
        of, size, own = self.options["of"], self.options["size"], ("dim", "heads", "cell_dim", "width")
        spec = replace(spec, size=self.spec.size)
        backbone = open_backbone(spec, of, size)
        if isinstance(backbone, Panopticon) and any(spec.bands[s] != self.bands.get(s) for s in backbone.sensors):
            raise InputError(f"encoder.of={of}: knows its bands by number; it was pretrained here with {self.bands}")
        known = replace(spec, bands=self.bands)
        new = ForeignSegmenter(backbone, known, classes, **{k: self.options[k] for k in own})
        fresh, learned = new.state_dict(), self.net.state_dict()
        new.load_state_dict(fresh | {k: v for k, v in learned.items() if k in fresh})
        new.stem.extend(spec.bands)
        new.way_back.composite.extend(spec.bands)
        return new


def hide(batch: Batch, hidden: Tensor) -> Batch:
    """Without what is hidden, (B, H, W) bool, of every sensor that has dates."""

    def shown(s: Series) -> Series:
        return s.replace(x=s.x.masked_fill(hidden[:, None, None], 0.0), valid=s.valid & ~hidden[:, None])

    seen = images(batch.sensors)
    return batch.replace(sensors={k: shown(s) if k in seen else s for k, s in batch.sensors.items()})
