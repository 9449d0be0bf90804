"""Compare encoders with a tuned U-Net: python eval.py checkpoint=runs/a,runs/b (--help lists every key)."""

from gfm_objectives.cli import evaluate

if __name__ == "__main__":
    raise SystemExit(evaluate())
