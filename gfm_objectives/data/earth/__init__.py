"""The procedural Earth behind the synthetic source: regions, the layout of a place, what sensors see, labels."""
