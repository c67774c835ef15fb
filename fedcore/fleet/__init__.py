"""The world: machines, links, energy and presence, simulated round by round."""
