"""The learning core: neurons, blocks, training, fleets, probes, learning dynamics."""
