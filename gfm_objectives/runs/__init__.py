"""Runs on disk: their folder, ledger, exports and provenance. Whoever reads or writes a run does it here."""
