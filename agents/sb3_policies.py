"""The orchestrator's networks as stable-baselines3 policies."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from agents.network import ActorNetwork, QNetwork, ValueNetwork


class EquivariantActorCritic(ActorCriticPolicy):
    """Gaussian policy over shares and sync level, with one spread for all shares and one for the level.

    Entries that do not matter (padding, machines that are away) are left out of log-probabilities and entropy, so that
    their noise never reaches a gradient.

    Args:
        width: of the networks, as a keyword beside stable-baselines3's own.
    """

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = ActorNetwork(self.width)
        self.critic = ValueNetwork(self.width)
        self.log_std = nn.Parameter(torch.full((2,), float(self.log_std_init)))
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _spread(self, entries: int) -> Tensor:
        std = self.log_std.exp()
        return torch.cat([std[:1].expand(entries - 1), std[1:]])

    def _log_prob(self, mean: Tensor, mask: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        normal = torch.distributions.Normal(mean, self._spread(mean.shape[1]).expand_as(mean))
        return (normal.log_prob(actions) * mask).sum(dim=1), (normal.entropy() * mask).sum(dim=1)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values and log-probabilities."""
        mean, mask = self.actor(obs)
        actions = mean if deterministic else mean + self._spread(mean.shape[1]) * torch.randn_like(mean)
        return actions, self.critic(obs), self._log_prob(mean, mask, actions)[0]

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Values, log-probabilities and entropies of given actions."""
        mean, mask = self.actor(obs)
        log_prob, entropy = self._log_prob(mean, mask, actions)
        return self.critic(obs), log_prob, entropy

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:  # type: ignore[override]
        return self.forward(observation, deterministic)[0]

    def predict_values(self, obs: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 1) state values."""
        return self.critic(obs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self.width}


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
