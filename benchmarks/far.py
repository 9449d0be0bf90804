"""How much a look of any radius can tell of the laboratory's far classes: python benchmarks/far.py.

Accuracy of the oracle (data/earth/far.py) on built-up ground and fields, by the size of a place, the reach of the
labels and the radius that is seen, all in pixels of 10 m; radius 0 is the pixel itself.
"""

from __future__ import annotations

import torch

from gfm_objectives.data.earth.far import oracle
from gfm_objectives.data.earth.layout import layout_draws, make_layout
from gfm_objectives.data.synthetic import Synthetic

PLACES = {64: 256, 128: 96, 256: 32}
RADII = (0, 2, 4, 8, 16, 32, 64)


def main() -> None:
    torch.set_num_threads(1)
    print("| place | reach | " + " | ".join(f"within {r}" for r in RADII) + " |")
    print("| ---: | ---: | " + " | ".join("---:" for _ in RADII) + " |")
    for size, count in PLACES.items():
        source = Synthetic("test", size=size)
        places = range(count)
        region = source.regions.rows(torch.tensor([source.region_of(i) for i in places]))
        draws = source._draws("layout", [source.layout_of(i) for i in places], layout_draws(size))
        layout = make_layout(draws, region, size, torch.zeros(count))
        for reach in (16, 32, 64):
            print(f"| {size} | {reach} | " + " | ".join(f"{oracle(layout, reach, r):.3f}" for r in RADII) + " |")


if __name__ == "__main__":
    main()
