"""The scenario file: fleet, network, energy, workload and budgets, validated field by field.

Every quantity carries its unit in its name. Unknown fields are refused, so that a misspelt one is never silent.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, get_args, get_origin

import networkx as nx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from scenarios.presets import expand

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, le=3)]
"""Standard deviation of a logarithm: at 3, one draw in twenty is 360 times as large, or as small, as the typical one."""
Fraction = Annotated[float, Field(ge=0, le=1)]


def _as_folder(name: str) -> str:
    """Machines' folders are called by their names."""
    if name.startswith(".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise ValueError(
            f"{name!r} is no name: expected one without '/', '\\' and control characters that does not begin with '.'"
        )
    return name


Name = Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_as_folder)]
HOURS = 24


def _only_numbers(annotation: Any) -> bool:
    """Whether a field takes numbers, or several of them, and neither words nor yes and no."""
    parts = [part for part in get_args(annotation) if part not in (type(None), Ellipsis)]
    if get_origin(annotation) is Annotated:
        return _only_numbers(parts[0])
    return annotation in (int, float) if not parts else all(_only_numbers(part) for part in parts)


class Section(BaseModel):
    """Base of all sections: immutable, no unknown fields, numbers that are numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        wanted = cls.model_fields[info.field_name].annotation
        # pydantic would take true for 1, and '2' for 2.
        if isinstance(value, bool | str) and _only_numbers(wanted):
            raise ValueError("input should be a number")
        return value


class Thermal(Section):
    """A device without a fan slows down while it is hot; its heat follows its work."""

    slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(description="of steps once it is as hot as it gets")
    heating_s: Positive = Field(description="time constant of getting hot while it computes")
    cooling_s: Positive = Field(description="time constant of cooling down while it does not")


class Device(Section):
    """What computes: a kind of `catalogue/devices.yaml`, `like` one, or all of its own.

    Step time = step_overhead_s + (FLOPs + half_rows x FLOPs of one row of every product) / throughput.
    """

    throughput_gflops: Positive = Field(description="effective rate on this workload, not the data sheet's peak")
    step_overhead_s: NonNegative = Field(0.0, description="fixed cost of a step, whatever the block")
    half_rows: NonNegative = Field(
        0.0,
        description="neurons at which a matrix product runs at half of the throughput: small blocks use hardware badly, and a "
        "layer that is cut in trained and frozen rows runs as two products (docs/speed.md)",
    )
    memory_mb: Positive = Field(description="memory that training may use; a larger block is infeasible")
    active_power_w: Positive = Field(description="while it trains")
    idle_power_w: NonNegative = Field(description="while invited and waiting")
    step_jitter: Spread = Field(0.05, description="standard deviation of ln(step time) from round to round")
    thermal: Thermal | None = Field(None, description="of a device without a fan; null: it never slows down")

    def step_s(self, flops: float, row_flops: float) -> float:
        """Seconds of a step of so many FLOPs, of which so many are of one row of every product."""
        return self.step_overhead_s + (flops + self.half_rows * row_flops) / (1e9 * self.throughput_gflops)

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, section: Any) -> Any:
        return expand("devices", section)


class Outages(Section):
    """A link that all but fails now and then (two-state Markov)."""

    mean_up_s: Positive = Field(description="mean length of a stretch without an outage")
    mean_down_s: Positive = Field(description="mean length of an outage")
    rate_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.01, description="of the rate that is left meanwhile")


class Link(Section):
    """A machine's own access link, given as devices are; its rate follows a mean-reverting log-normal process, or a trace."""

    uplink_mbps: Positive = Field(description="mean rate; with a trace, what the orchestrator is told before it has measured")
    downlink_mbps: Positive = Field(description="likewise, from the server")
    latency_s: NonNegative = Field(0.02, description="one way; every transfer waits for it once")
    variability: Spread = Field(0.0, description="standard deviation of ln(rate) around its mean")
    correlation_s: Positive = Field(60.0, description="time over which the rate forgets (1/e)")
    mean_spread: Spread = Field(0.0, description="standard deviation of ln(mean rate) from episode to episode")
    outages: Outages | None = Field(None, description="null: it never fails")
    trace: str | None = Field(
        None,
        description="CSV file second,uplink_mbps,downlink_mbps, replayed from a random second on and over again; relative to "
        "the scenario file",
    )
    transmit_nj_per_bit: NonNegative = Field(0.0, description="energy of the machine's radio per bit that it sends")
    receive_nj_per_bit: NonNegative = Field(0.0, description="energy of the machine's radio per bit that it receives")
    via: tuple[str, ...] = Field((), description="names of shared links on the way to the server")
    at: str | None = Field(
        None,
        description="node of a mesh (an end of a shared link's `between`) that it leads to, in place of `via`; from there "
        "traffic takes the path of least latency to the server, of equals the one of fewest hops",
    )

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, section: Any) -> Any:
        return expand("links", section)

    @model_validator(mode="after")
    def _one_way(self) -> Link:
        if self.at is not None and self.via:
            raise ValueError(f"at {self.at!r} and via {list(self.via)} exclude each other: expected one of them")
        return self


class Load(Section):
    """Background work that comes and goes (two-state Markov) and slows training down meanwhile."""

    slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(description="of steps while it is busy")
    mean_busy_s: Positive = Field(description="mean length of a busy stretch")
    mean_free_s: Positive = Field(description="mean length of a free stretch")


Hours = Annotated[tuple[Annotated[float, Field(ge=0, le=24)], Annotated[float, Field(ge=0, le=24)]], Field()]


class Availability(Section):
    """When a machine is there; whoever leaves during a round loses its block. What is given holds together."""

    mean_on_s: Positive | None = Field(None, description="on/off Markov; together with mean_off_s")
    mean_off_s: Positive | None = Field(None, description="mean length of an absence; mean_on_s of a presence")
    daily_hours: Annotated[tuple[Hours, ...], Field(max_length=12)] = Field(
        (), description="hours of the day at which it is there, as [from, to]; [22, 6] runs over midnight"
    )
    joins_after_s: NonNegative = Field(0.0, description="a late joiner is first there after so many seconds")
    trace: str | None = Field(
        None,
        description="CSV file on_s,off_s: when it comes and goes, from the episode's start, over again after the last row; "
        "relative to the scenario file",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Availability:
        if (self.mean_on_s is None) != (self.mean_off_s is None):
            raise ValueError("mean_on_s and mean_off_s belong together: give both or neither")
        if self.trace is not None and self.daily_hours:
            raise ValueError("daily_hours and trace exclude each other: give one of them")
        if self.mean_on_s is None and not self.daily_hours and self.trace is None and self.joins_after_s == 0.0:
            raise ValueError("says nothing: give mean_on_s and mean_off_s, daily_hours, joins_after_s or trace")
        if any(start == end for start, end in self.daily_hours):
            raise ValueError("daily_hours must not be empty stretches such as [8, 8]: leave them out")
        return self


class Battery(Section):
    """Energy store with an optional solar panel. Below its reserve a machine is away until it has recharged."""

    capacity_j: Positive = Field(description="when full")
    initial_fraction: Fraction = Field(0.8, description="charge at the episode's start")
    reserve_fraction: Fraction = Field(0.1, description="charge at or below which the machine is away")
    solar_peak_w: NonNegative = Field(0.0, description="harvest at noon under a clear sky; 0: no panel")
    cloudiness: Fraction = Field(0.3, description="mean fraction of the harvest lost to clouds")
    cloud_correlation_s: Positive = Field(900.0, description="time over which the sky forgets (1/e)")

    @model_validator(mode="after")
    def _starts_above_reserve(self) -> Battery:
        if self.initial_fraction <= self.reserve_fraction:
            raise ValueError("initial_fraction must be above reserve_fraction")
        return self


class Group(Section):
    """Machines of one kind."""

    name: Name = Field(description="of the machine, or the start of theirs: name-0, name-1, ...")
    count: Annotated[int, Field(ge=1, le=64)] = Field(1, description="machines")
    device: Device = Field(description="what computes")
    link: Link = Field(description="its access to the network")
    load: Load | None = Field(None, description="background work; null: none")
    availability: Availability | None = Field(None, description="null: always there")
    battery: Battery | None = Field(None, description="null: on mains")
    images: Annotated[int, Field(ge=16, le=1_000_000)] = Field(160, description="training images, or windows of text, of each")


class SharedLink(Section):
    """A link that several machines' flows share max-min fairly."""

    name: Name = Field(description="that `via` calls it by")
    uplink_mbps: Positive = Field(description="towards the server")
    downlink_mbps: Positive = Field(description="from the server")
    latency_s: NonNegative = Field(0.0, description="added to that of the machines whose flows cross it")
    between: tuple[Name, Name] | None = Field(
        None, description="the nodes that it joins, in any order: relays by names of their own, or 'server'"
    )

    @model_validator(mode="after")
    def _joins_two(self) -> SharedLink:
        if self.between is not None and self.between[0] == self.between[1]:
            raise ValueError(f"between has {self.between[0]!r} twice, expected two nodes")
        return self


class Server(Section):
    """The coordinator's side."""

    uplink_mbps: Positive = Field(1000.0, description="from the fleet into the server")
    downlink_mbps: Positive = Field(1000.0, description="from the server to the fleet")
    nj_per_bit: NonNegative = Field(5.0, description="energy of the server's side per bit, either direction")
    round_overhead_s: NonNegative = Field(0.5, description="merge, bookkeeping, scheduling")
    wait_s: Positive = Field(30.0, description="length of a round in which nobody could take part")


class Fleet(Section):
    """All machines plus the network between them."""

    groups: Annotated[tuple[Group, ...], Field(min_length=1)] = Field(description="the machines")
    links: tuple[SharedLink, ...] = Field((), description="that machines share on their way to the server")
    server: Server = Field(Server(), description="the coordinator's side")
    grid_gco2e_per_kwh: NonNegative | Annotated[tuple[NonNegative, ...], Field(min_length=HOURS, max_length=HOURS)] = Field(
        369.0, description="one figure, or one for every hour of the day; default: USA, codecarbon / Our World in Data"
    )
    pue: Annotated[float, Field(ge=1, le=5)] = Field(
        1.0, description="power usage effectiveness: what a building draws over what its machines do, for carbon"
    )
    start_hour: Annotated[float, Field(ge=0, lt=24)] = Field(9.0, description="hour of the day at which an episode begins")

    @model_validator(mode="after")
    def _names_agree(self) -> Fleet:
        names = [g.name for g in self.groups]
        if len(set(names)) != len(names):
            raise ValueError(f"group names must be unique, got {names}")
        clash = [name for name, count in Counter(self.machine_names).items() if count > 1 or name == "server"]
        if clash:
            raise ValueError(
                f"machine names must be unique and none may be 'server' (a group of several is numbered: name-0, "
                f"name-1, ...), got {clash[0]!r}: rename a group"
            )
        if len({link.name for link in self.links}) != len(self.links):
            raise ValueError(f"link names must be unique, got {[link.name for link in self.links]}")
        links = {link.name: link for link in self.links}
        for group in self.groups:
            twice = [name for name, times in Counter(group.link.via).items() if times > 1]
            if twice:
                raise ValueError(f"group {group.name!r} goes via {twice} twice, expected every link once")
            unknown = [name for name in group.link.via if name not in links]
            if unknown:
                raise ValueError(f"group {group.name!r} goes via {unknown}, expected one of {sorted(links)}")
            joined = [name for name in group.link.via if links[name].between is not None]
            if joined:
                raise ValueError(
                    f"group {group.name!r} goes via {joined}, which joins nodes of a mesh: expected link.at, one of its nodes"
                )
        return self

    @field_validator("grid_gco2e_per_kwh", mode="before")
    @classmethod
    def _one_or_every_hour(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) != HOURS:
            raise ValueError(f"{len(value)} figures, expected one number, or a list of {HOURS}, one for every hour of the day")
        return value

    @model_validator(mode="after")
    def _mesh_leads_to_the_server(self) -> Fleet:
        mesh = nx.Graph()
        mesh.add_node("server")
        for link in self.links:
            if link.between is None:
                continue
            for node in link.between:
                if node in self.machine_names:
                    raise ValueError(
                        f"link {link.name!r} is between {list(link.between)}, but {node!r} is a machine: expected 'server' or "
                        "a relay of another name"
                    )
            if mesh.has_edge(*link.between):
                raise ValueError(
                    f"links {mesh.edges[link.between]['link']!r} and {link.name!r} are both between {sorted(link.between)}: "
                    "expected one link, with the rate of both"
                )
            mesh.add_edge(*link.between, link=link.name)
        reached = nx.node_connected_component(mesh, "server")
        for group in self.groups:
            at = group.link.at
            if at is not None and at not in mesh:
                raise ValueError(f"group {group.name!r} has link.at {at!r}, expected one of {sorted(mesh)}")
            if at is not None and at not in reached:
                raise ValueError(
                    f"group {group.name!r} has link.at {at!r}, from where no links lead to 'server': expected one of "
                    f"{sorted(reached)}"
                )
        return self

    @property
    def machine_names(self) -> tuple[str, ...]:
        """One name per machine, in order."""
        return tuple(g.name if g.count == 1 else f"{g.name}-{i}" for g in self.groups for i in range(g.count))

    @property
    def machines(self) -> tuple[Group, ...]:
        """The group of every machine, in order."""
        return tuple(g for g in self.groups for _ in range(g.count))


class Privacy(Section):
    """Central differential privacy for every machine as a whole: fedcore/methods/private.py."""

    clip_norm: Positive = Field(2.5, description="L2 norm that a machine's change of a round is scaled down to")
    noise_multiplier: NonNegative = Field(1.0, description="standard deviation of the noise on their sum, over clip_norm")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(1e-5, description="at which epsilon is told")


class Workload(Section):
    """What is trained."""

    data: str = Field("soil-micrographs-mixed", min_length=1, description="an embedded set, or a path to images or text")
    image_px: Annotated[int, Field(ge=8, le=256)] = Field(32, description="height and width that images are brought to")
    window: Annotated[int, Field(ge=4, le=1024)] = Field(64, description="tokens per sample, where text is trained on")
    split: Literal["auto", "group", "site", "class", "dirichlet", "iid"] = Field(
        "auto",
        description="how images are dealt to machines: whole groups (site: never cut), classes, a Dirichlet draw, or at "
        "random; auto: groups where there are any, else dirichlet by labels, else iid; embedded sets: a site per machine",
    )
    dirichlet_alpha: Annotated[float, Field(ge=0.001, le=1_000_000)] = Field(
        0.3, description="concentration of the dirichlet split: small is skewed, large is even"
    )
    encoder: str = Field("convnet", description="a name in fedcore.encoders.ENCODERS")
    encoder_options: dict[str, Any] = Field({}, description="arguments of its constructor")
    objective: str = Field("simclr", description="a name in fedcore.objectives.OBJECTIVES")
    objective_options: dict[str, Any] = Field({}, description="arguments of its constructor")
    batch_size: Annotated[int, Field(ge=2, le=4096)] = Field(
        32, description="images or windows per local step; a machine that holds fewer trains on all of its own"
    )
    learning_rate: Positive = Field(3e-3, description="of AdamW on the machines")
    weight_decay: NonNegative = Field(1e-4, description="of AdamW on the machines")
    context: Fraction = Field(1.0, description="part of the other neurons that a machine sees: 1 cooperative, 0 subnet")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the processor has it")
    context_rule: Literal[
        "random", "random-unscaled", "nested", "nested-moment", "nested-unscaled", "important", "compensated",
        "compensated-random",
    ] = Field("random-unscaled", description="which neurons a thinned context shows, and how it is corrected: docs/context.md")
    selection: Literal["random", "rolling", "fixed", "importance"] = Field(
        "random", description="which neurons a machine's share is: docs/shares.md"
    )
    server_step: Annotated[float, Field(gt=0, le=1.5)] = Field(
        0.7, description="below 1 damps machines that move their blocks at once, each taking the others as frozen"
    )
    privacy: Privacy | None = Field(None, description="clip and noise what is merged; null: neither")
    calibration: str = Field("soil-mixed-convnet-simclr", description="learning-dynamics parameters and target quality")


class Decision(Section):
    """What an orchestrator may choose."""

    sync_intervals: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(min_length=1, max_length=16)] = Field(
        (2, 5, 10, 20, 40), description="the menu of H, local steps of a round; ascending"
    )
    deadline_s: Positive | None = Field(None, description="a block that is later than this is lost")
    wire_precision: Literal["fp32", "bf16", "int8"] = Field(
        "fp32", description="of trained blocks on the way up: bf16 and int8 send rounded changes, what rounding leaves out is "
        "added to the next"
    )

    @model_validator(mode="after")
    def _ascending(self) -> Decision:
        if list(self.sync_intervals) != sorted(set(self.sync_intervals)):
            raise ValueError(f"sync_intervals must ascend without repeats, got {list(self.sync_intervals)}")
        return self


class Reference(Section):
    """The policy whose cost to the target is 1: equal shares, fixed sync interval."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="of every machine, as far as its memory holds it")
    sync_interval: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="H of every round")


class Reward(Section):
    """How decisions are paid."""

    kind: str = Field("efficiency", description="a name in envs.rewards: docs/rewards.md")
    energy_weight: Fraction = Field(0.5, description="w_E; bytes weigh 1 - w_E")


class Budgets(Section):
    """An episode ends when one is spent. Absolute figures win; where null, a multiple of the reference's need."""

    of_reference: Annotated[float, Field(gt=1, le=100)] = Field(3.0, description="times what the reference policy needs")
    rounds: Annotated[int, Field(ge=1, le=100_000)] = Field(200, description="at most")
    time_s: Positive | None = Field(None, description="simulated seconds")
    energy_j: Positive | None = Field(None, description="of machines and server's side")
    bytes: Positive | None = Field(None, description="up and down, all machines")


class Scenario(Section):
    """One scenario file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)] = Field(description="unlike any other's")
    title: str = Field("", description="for tables and pictures")
    description: str = Field("", description="what it is hard about")
    fleet: Fleet = Field(description="machines and network")
    workload: Workload = Field(Workload(), description="what is trained")
    decision: Decision = Field(Decision(), description="what may be chosen")
    reference: Reference = Field(Reference(), description="what scores are relative to")
    reward: Reward = Field(Reward(), description="how decisions are paid")
    budgets: Budgets = Field(Budgets(), description="when an episode ends")
