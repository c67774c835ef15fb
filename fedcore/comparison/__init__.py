"""Methods compared at equal simulated time, energy and bytes: `python -m fedcore.compare`."""
