"""pFedMe (T. Dinh et al. 2020): personal models near a global one, by Moreau envelopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedcore.blocks import Block, Weights, freeze, slice_weights
from fedcore.costs import BYTES_PER_WEIGHT
from fedcore.local import LocalRecipe, LocalResult, LocalTask, features_in, follow
from fedcore.merge import Update
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.partial import Partial, require_plain_sgd
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples
from fedcore.slices import entries, own_or, untrained, write_trained
from scenarios.errors import InputError


@dataclass(frozen=True)
class PFedMe(Partial):
    """min_w mean_k F_k(w) with F_k(w) = min_theta f_k(theta) + lambda / 2 ||theta - w||^2 (equations 2 and 3, algorithm 1).

    A round is R = H local rounds: one batch, K steps theta <- theta - eta_p (g(theta) + lambda (theta - w_k) + mu theta)
    on it, then w_k <- w_k - eta lambda (w_k - theta). Theta starts the round at w and goes on from one local round to the
    next. The server takes w <- (1 - beta) w + beta times the mean of the w_k: beta is `server_step`. eta_p is the recipe's
    learning rate (0.09 in the authors' code): it is what plain gradient steps go by.

    The authors' code has all machines train in every round and merges a sample of them; here those train whose blocks are
    merged. The personal models theta stay on the machines: `personal_states` gives them to probes.

    Attributes:
        lambda_: lambda, strength of the pull of theta towards w_k.
        eta: of the local model w_k.
        personal_steps: K.
        mu: weight decay of theta in the authors' code.
    """

    name = "pfedme"

    lambda_: float = 15.0
    eta: float = 0.005
    personal_steps: int = 5
    mu: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, value in (("lambda_", self.lambda_), ("eta", self.eta)):
            if not 0.0 < value < float("inf"):
                raise InputError(f"pfedme: {field} is {value}, expected a finite number above 0")
        if not 0.0 <= self.mu < float("inf"):
            raise InputError(f"pfedme: mu is {self.mu}, expected a finite number of at least 0")
        if self.personal_steps < 1:
            raise InputError(f"pfedme: personal_steps is {self.personal_steps}, expected at least 1")

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`."""
        super().check(model, recipe)
        require_plain_sgd(self.name, "the personal steps are made of", recipe)
        if recipe.learning_rate * (self.lambda_ + self.mu) >= 2.0:
            raise InputError(
                f"pfedme: learning_rate is {recipe.learning_rate:g} with lambda_ {self.lambda_:g}, which diverges, choose a "
                f"learning_rate below {2.0 / (self.lambda_ + self.mu):.3g}"
            )

    def train(
        self,
        model: Model,
        state: State,
        target: State | None,
        task: LocalTask,
        samples: Samples,
        recipe: LocalRecipe,
        generator: torch.Generator,
    ) -> LocalResult:
        """See `Method.train`; the personal weights of the block stay on the machine as "personal". The loss is theta's."""
        objective = model.objective
        theta = slice_weights(state, model.neuron_map, task.block)
        theta.statistics = {name: state[name].clone() for name in objective.statistics}
        aim = None if target is None else freeze(slice_weights(target, model.neuron_map, task.block))
        w = {name: value.detach().clone() for name, value in theta.trained.items()}
        local = Weights(w, theta.frozen, order=theta.order)
        features = features_in(model.encoder, recipe.precision)
        size = recipe.batch_of(len(samples))
        total = 0.0
        for step in range(task.steps_before, task.steps_before + task.steps):
            theta.step = step
            chosen = torch.randperm(len(samples), generator=generator)[:size]
            batch = objective.draw(samples, chosen, recipe.augmentation, generator)
            for _ in range(self.personal_steps):
                loss = objective.loss(features, theta, aim, batch)
                gradients = torch.autograd.grad(loss, list(theta.trained.values()))
                total += float(loss.detach())
                with torch.no_grad():
                    for (name, value), gradient in zip(theta.trained.items(), gradients, strict=True):
                        gradient = gradient + self.lambda_ * (value - w[name]) + self.mu * value
                        value.sub_(gradient, alpha=recipe.learning_rate)
            objective.update_statistics(theta)
            with torch.no_grad():
                for name, value in theta.trained.items():
                    w[name].sub_(w[name] - value, alpha=self.eta * self.lambda_)
            if aim is not None and recipe.moving_target:
                follow(aim, local, objective.momentum(step))
        personal = {name: value.detach() for name, value in theta.trained.items()}
        mean_loss = total / (task.steps * self.personal_steps)
        return LocalResult(w, mean_loss, task.steps, len(samples), theta.statistics, {"personal": personal})

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        names = {p.name for p in server.model.neuron_map.parameters}
        for task, result in zip(tasks, results, strict=True):
            server.kept[task.machine]["personal"] = write_trained(
                untrained(server.state, names), server.model.neuron_map, task.block, result.extra["personal"]
            )
        super().merge(server, tasks, results, updates)

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: K gradients per local round; w_k lies beside theta in memory."""
        cost = super().cost(server, machine, block, steps, recipe)
        local = BYTES_PER_WEIGHT * entries(server.model.neuron_map, block)
        return replace(cost, step_flops=cost.step_flops * self.personal_steps, memory_bytes=cost.memory_bytes + local)

    def personal_states(self, server: Server) -> list[State | None]:
        """See `Method.personal_states`.

        Returns:
            Per machine the theta of its last round; weights that it did not train then, and statistics, are the server's.
            None where it has trained in no round yet.
        """
        return [own_or(kept["personal"], server.state) if "personal" in kept else None for kept in server.kept]
