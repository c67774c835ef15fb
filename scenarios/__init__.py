"""Scenarios: schema, loader, library and random generator."""

from scenarios.errors import InputError
from scenarios.generate import random_scenario
from scenarios.loader import load, names, parse
from scenarios.schema import Scenario

__all__ = ["InputError", "Scenario", "load", "names", "parse", "random_scenario"]
