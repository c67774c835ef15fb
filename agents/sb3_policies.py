"""The orchestrator's networks as stable-baselines3 policies."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from agents.network import MenuNetwork


class EquivariantActorCritic(ActorCriticPolicy):
    """Categorical policy over the moves of the menu, and a critic on the same encoder.

    Args:
        width: of the network, as a keyword beside stable-baselines3's own.
    """

    def __init__(self, *args: Any, width: int = 64, **kwargs: Any) -> None:
        self.width = width
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = MenuNetwork(int(self.action_space.n), self.width)  # type: ignore[attr-defined]
        self.critic = nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU(), nn.Linear(self.width, 1))
        self.optimizer = self.optimizer_class(  # type: ignore[call-arg]
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def rated(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1) state values and (B, moves) log-probabilities."""
        pooled = self.actor.encoder(obs)
        return self.critic(pooled), self.actor.head(pooled).log_softmax(dim=1)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Moves, values and log-probabilities."""
        value, log = self.rated(obs)
        if deterministic:
            move = self.actor(obs).argmax(dim=1)  # as the actor alone, to the last bit
        else:  # an exponential race: the first arrival is a draw from the categorical
            move = (log.exp() / torch.empty_like(log).exponential_()).argmax(dim=1)
        return move, value, log.gather(1, move[:, None])[:, 0]

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Values, log-probabilities and entropies of given moves."""
        value, log = self.rated(obs)
        return value, log.gather(1, actions.long()[:, None])[:, 0], -(log.exp() * log).sum(dim=1)

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:  # type: ignore[override]
        return self.forward(observation, deterministic)[0]

    def predict_values(self, obs: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 1) state values."""
        return self.critic(self.actor.encoder(obs))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "width": self.width}


class MenuQNetwork(BasePolicy):
    """`MenuNetwork` as stable-baselines3 wants it."""

    def __init__(self, observation_space: Any, action_space: Any, width: int) -> None:
        super().__init__(observation_space, action_space)
        self.network = MenuNetwork(int(action_space.n), width)

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
