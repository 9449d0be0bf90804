"""Curation: near-duplicates, leakage and information of data, before any of it reaches a model."""
