"""Pretraining objectives for Earth observation, compared at equal compute on one multimodal ViT."""

from __future__ import annotations

__version__ = "0.1.0"


def load_encoder(path: str):
    """The pretrained encoder of a run folder or of an exported `encoder.safetensors`; see `checkpoint.load_encoder`."""
    from gfm_objectives.runs.checkpoint import load_encoder as load

    return load(path)
