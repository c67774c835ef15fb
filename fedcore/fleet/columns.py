"""Columns of the arrays that the fleet's array code works on; every quantity in SI units."""

# Parameters of a machine: (machines, N_PARAMETERS).
FLOPS_PER_S, STEP_OVERHEAD_S, MEMORY_BYTES, ACTIVE_W, IDLE_W, STEP_JITTER = range(6)
UP_BPS, DOWN_BPS, LATENCY_S, LINK_SIGMA, LINK_TAU_S, TX_J_PER_BIT, RX_J_PER_BIT = range(6, 13)
SLOWDOWN, BUSY_S, FREE_S = range(13, 16)
ON_S, OFF_S = range(16, 18)
BATTERY_J, BATTERY_START, BATTERY_RESERVE, SOLAR_W, CLOUDINESS, CLOUD_TAU_S = range(18, 24)
IMAGES, HALF_ROWS = range(24, 26)
THROTTLE, HEAT_S, COOL_S = range(26, 29)
OUTAGE_FACTOR, OUTAGE_UP_S, OUTAGE_DOWN_S, LINK_SPREAD = range(29, 33)
JOIN_S = 33
TRACE = 34  # row of `Fleets.traces`, -1 for none
WINDOWS, N_WINDOWS, PERIOD_S, WINDOWS_BY_CLOCK = range(35, 39)  # rows of `Fleets.windows`: first, how many
OF_BATCH = 39  # samples of a step over the batch that costs are of: less than 1 where a machine holds fewer
MOST = 40  # last row of the cost table whose block its memory holds
N_PARAMETERS = 41

# Hidden, moving conditions of a machine: (machines, N_CONDITIONS).
LINK_X, BUSY, ON, CHARGE_J, CLOUD_X, HEAT, OUT, LINK_MEAN, TRACE_S = range(9)
N_CONDITIONS = 9

# Fleet-wide parameters: (N_FLEET,).
SERVER_J_PER_BIT, OVERHEAD_S, WAIT_S, DEADLINE_S, START_S, LINKS, MACHINES = range(7)
KG_CO2E_PER_J = 7  # the first of 24, one per hour of the day
N_FLEET = 31

# What a round cost one machine: (machines, N_TELEMETRY).
STATUS, DOWNLOAD_S, COMPUTE_S, UPLOAD_S, IDLE_S, ENERGY_J, SENT_BYTES, RECEIVED_BYTES, FINISH_S = range(9)
STEP_S, MEASURED_UP_BPS, MEASURED_DOWN_BPS = range(9, 12)
N_TELEMETRY = 12

# What a round cost in total: (N_TOTALS,).
ROUND_S, TOTAL_ENERGY_J, TOTAL_BYTES, TOTAL_CO2E_KG = range(4)
N_TOTALS = 4

READY = "ready"
"""Of a machine that is there before the first round."""

# Values of STATUS.
ABSENT, AWAY, RESTING, DONE, LEFT, LATE, INFEASIBLE, FLAT = range(8)
STATUS_NAMES = (
    "absent",  # no such machine
    "away",  # off, or its battery is below the reserve
    "resting",  # share 0
    "done",  # its block came back
    "left",  # went off during the round; its block is lost
    "late",  # past the deadline; its block is lost
    "infeasible",  # the block does not fit its memory
    "flat",  # its battery ran down before its block was in, which is lost
)
