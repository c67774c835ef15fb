"""Real machines over Flower's deployment engine (SuperLink and SuperNodes). Nothing heavy is imported here: Flower starts a
process for every message, and `client` is all that such a process needs."""
