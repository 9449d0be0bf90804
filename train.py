"""Pretrain one encoder with one objective: python train.py objective=masked_seg (--help lists every key)."""

from gfm_objectives.cli import train

if __name__ == "__main__":
    raise SystemExit(train())
