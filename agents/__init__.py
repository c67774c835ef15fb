"""Orchestrators: heuristics, learned policies, frozen files, references."""
