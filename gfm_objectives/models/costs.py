"""What the pretraining of published weights cost, as far as it is public."""

from __future__ import annotations

from dataclasses import dataclass

VIT_B, VIT_L = 86e6, 304e6  # parameters of the blocks


@dataclass(frozen=True, slots=True)
class Cost:
    """Pretraining FLOPs of published weights. No paper below prints any: all are derived, samples x FLOPs of one, and
    good to a factor of two or three. `source`: what from. Lengths of training of DOFA, Copernicus-FM, Scale-MAE, MAE
    and Panopticon were read in their repositories or the names of their files; numbers of images, decoders, teachers
    and CROMA's epochs are recalled from the papers and were not read again.
    """

    flops: float
    source: str


def _mae(parameters: float, decoder: float, visible: int, tokens: int) -> float:
    """FLOPs of a sample: 6 x parameters x visible tokens, and 6 x the decoder's x all tokens."""
    return 6 * (parameters * visible + decoder * tokens)


# The published weights of each architecture; what is not listed is unknown, and the report says so.
COSTS = {
    "dofa_base_patch16_224": Cost(
        100 * 8.08e6 * (_mae(VIT_B, 26e6, 50, 197) + 2 * VIT_B * 197),
        "arXiv:2403.15356: 8.08e6 images; 100 epochs by the name of the weights (DOFA_ViT_base_e100); a quarter of 196 "
        "patches encoded, MAE's decoder, and the forward of a ViT-B teacher",
    ),
    "croma_base": Cost(
        300 * 1e6 * (6 * 56 * 185e6 + 6 * 225 * 4e6),
        "arXiv:2311.00566: 300 epochs of SSL4EO-S12's 1e6 pairs at 120 pixels; a quarter of 225 patches through 185e6 "
        "parameters of three encoders, and a one-layer decoder",
    ),
    "croma_large": Cost(
        600 * 1e6 * (6 * 56 * 655e6 + 6 * 225 * 4e6),
        "arXiv:2311.00566: as croma_base, but 600 epochs through 655e6 parameters",
    ),
    "panopticon_vitb14": Cost(
        70
        * 1250
        * 1200
        * (6 * VIT_B * 714 + 2 * VIT_B * 514 + 3 * 2 * 4842 * (196 * 2304 + 2 * 2304**2) + 2 * 4352 * 1.1e7),
        "its repository's stage2.yaml: 70 epochs of 1250 steps, batch 1200 by its learning rate; two views of 257 and "
        "four of 50 tokens, a teacher's forward of two, attention over 8.5 and 2.5 channels; stage 1 and the DINOv2 "
        "it starts from are not in it: a lower bound",
    ),
    "scalemae_large_patch16": Cost(
        800 * 363_571 * _mae(VIT_L, 10e6, 50, 196),
        "arXiv:2212.14532 and its repository: 800 epochs of fMoW-RGB's 363,571 training images, a quarter of 196 "
        "patches encoded, three decoder blocks",
    ),
    "copernicusfm_base": Cost(
        100 * 8 * 2.2e5 * (_mae(VIT_B, 26e6, 60, 196) + 2 * VIT_B * 196),
        "arXiv:2503.11849: 100 epochs by the name of the weights (e100), one image of each of 8 modalities in 2.2e5 "
        "grid cells, 30 % of 196 patches encoded, MAE's decoder, and the forward of a ViT-B teacher",
    ),
    "vit_base_patch16_224.mae": Cost(
        1600 * 1.281e6 * _mae(VIT_B, 26e6, 50, 197), "arXiv:2111.06377: 1600 epochs of ImageNet, a quarter encoded"
    ),
    "vit_large_patch16_224.mae": Cost(
        1600 * 1.281e6 * _mae(VIT_L, 26e6, 50, 197), "arXiv:2111.06377: 1600 epochs of ImageNet, a quarter encoded"
    ),
}
