"""The orchestrator's networks as stable-baselines3 policies."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from agents.network import ActorNetwork, QNetwork, likeliest, to_actions, to_choices


class EquivariantActorCritic(ActorCriticPolicy):
    """Categorical policy over parts and sync level, and a critic on the same encoder.

    Machines that cannot be asked are left out of log-probabilities and entropy, so that they never reach a gradient.

    Args:
        width: of the network, as a keyword beside stable-baselines3's own.
    """

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = ActorNetwork(self.width)
        self.critic = nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU(), nn.Linear(self.width, 1))
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values and log-probabilities."""
        part_logits, level_logits, pooled, askable, largest = self.actor.logits(obs)
        part_log, level_log = part_logits.log_softmax(dim=2), level_logits.log_softmax(dim=1)
        if deterministic:
            part, level = likeliest(part_logits, askable), level_logits.argmax(dim=1)  # as the actor alone, to the last bit
        else:  # an exponential race: the first arrival is a draw from the categorical
            part = (part_log.exp() / torch.empty_like(part_log).exponential_()).argmax(dim=2)
            level = (level_log.exp() / torch.empty_like(level_log).exponential_()).argmax(dim=1)
        actions = to_actions(part, level, askable, largest, int(self.action_space.shape[0]) - 1)  # type: ignore[index]
        return actions, self.critic(pooled), chosen_log_prob(part_log, level_log, part, level, askable)

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Values, log-probabilities and entropies of given actions; entropies are for the log and carry no gradient."""
        part_logits, level_logits, pooled, askable, largest = self.actor.logits(obs)
        part_log, level_log = part_logits.log_softmax(dim=2), level_logits.log_softmax(dim=1)
        part, level = to_choices(actions, largest)
        with torch.no_grad():  # half of the passes over the choices would serve a bonus that nobody gives
            uncertain = -(part_log.exp() * part_log).sum(dim=2)
            entropy = (uncertain * askable).sum(dim=1) - (level_log.exp() * level_log).sum(dim=1)
        return self.critic(pooled), chosen_log_prob(part_log, level_log, part, level, askable), entropy

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:  # type: ignore[override]
        return self.forward(observation, deterministic)[0]

    def predict_values(self, obs: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 1) state values."""
        return self.critic(self.actor.encoder(obs)[1])

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self.width}


def chosen_log_prob(part_log: Tensor, level_log: Tensor, part: Tensor, level: Tensor, askable: Tensor) -> Tensor:
    """Log-probability (B,) of choices; arguments as `network.to_actions`, with log-probabilities of all of them."""
    own = part_log.gather(2, part[:, :, None])[:, :, 0]
    return (own * askable).sum(dim=1) + level_log.gather(1, level[:, None])[:, 0]


class MenuQNetwork(BasePolicy):
    """`QNetwork` as stable-baselines3 wants it."""

    def __init__(self, observation_space: Any, action_space: Any, width: int) -> None:
        super().__init__(observation_space, action_space)
        self.network = QNetwork(int(action_space.n), width)

    def forward(self, obs: Tensor) -> Tensor:
        """(B, moves) values."""
        return self.network(obs)

    def _predict(self, observation: Tensor, deterministic: bool = True) -> Tensor:  # type: ignore[override]
        return self(observation).argmax(dim=1)


class EquivariantDQN(DQNPolicy):
    """DQN policy over the Discrete menu.

    Args:
        width: of the network, as a keyword beside stable-baselines3's own.
    """

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> Any:
        """A fresh network; called for the online and the target one."""
        return MenuQNetwork(self.observation_space, self.action_space, self.width).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self.width}
