"""Splits of tasks on the GPU that fine-tunes, and which GPU that is: no step waits for the host."""

from __future__ import annotations

import torch

from gfm_objectives.data.places import Kept, OnDevice, Places, nbytes_of

SHARE = 0.3  # of a GPU's memory: for the splits of all runs that are on it at a time


class Holding:
    """Splits by what they are, on one device, those last asked for; together they take at most `room` bytes."""

    def __init__(self, device: torch.device, room: float) -> None:
        self.device, self.room = device, room
        self.kept: dict[tuple[object, ...], OnDevice] = {}

    def __call__(self, places: Places, *key: object) -> Places:
        """The places, read from the device where they fit there. Tiles that are no places stay where they are."""
        if isinstance(places, Kept) and places.whole:
            return places
        if key in self.kept:
            self.kept[key] = self.kept.pop(key)  # the last to leave
            return self.kept[key]
        size = nbytes_of(places.read([0])) * len(places)
        if size > self.room:
            return places
        while self.kept and size + sum(h.nbytes for h in self.kept.values()) > self.room:
            del self.kept[next(iter(self.kept))]
        self.kept[key] = OnDevice(places, self.device)
        return self.kept[key]


_HERE: dict[torch.device, Holding] = {}


def held(places: Places, device: torch.device, together: int, *key: object) -> Places:
    """The places, on a GPU where they fit beside those of `together` runs; as they are for a CPU."""
    if device.type != "cuda":
        return places
    if device not in _HERE:
        _HERE[device] = Holding(device, SHARE * torch.cuda.get_device_properties(device).total_memory / together)
    return _HERE[device](places, *key)


def device_of(worker: int, device: torch.device, gpus: int) -> torch.device:
    """Where a worker computes: worker i on GPU i mod `gpus`, but for a device that is a CPU or has a number."""
    return torch.device("cuda", worker % gpus) if device.type == "cuda" and device.index is None else device


def usual_workers(device: torch.device, cores: int) -> int:
    """Runs at a time where nobody says: one per core, or per GPU."""
    if device.type != "cuda":
        return cores
    return 1 if device.index is not None else torch.cuda.device_count()
