"""Text from a small probabilistic grammar whose entropy rate is known exactly.

    sentence -> SUBJECT verb [OBJECT] "."            the verb agrees in number with the subject's noun,
    SUBJECT  -> OBJECT [ "that" verb OBJECT ]        across a clause that may stand between them
    OBJECT   -> determiner adjective* noun

Recursion is one clause deep, so the grammar is a finite automaton: 19 states, each of which a token leaves for one
state only. Every site mixes topics in its own proportions, so that machines use other words, other numbers of
adjectives, longer or shorter sentences.

Entropy rate. Next state follows from state and token (the automaton is unifilar), hence the tokens to come depend on the
past through the state alone, and the rate of a site is h = sum_s pi(s) H(p(. | s)) in nats per token (Shannon 1948,
theorem 5), where pi solves pi = pi P with P(s, s') the probability that the token from s leads to s'. No model can
predict long text of that site better. A window is short and does not say which site it is from, so the best possible loss on
windows is a little higher: `true_nats` computes it, with the true model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NUMBERS = ("one", "many")
DETERMINERS = {"one": ("a", "each"), "many": ("some", "most")}
ADJECTIVES = ("small", "old", "wet", "pale")
NOUNS = ("cell", "root", "spore", "worm", "stone", "seed")
VERBS = ("feed", "meet", "move", "hold", "split")
STOP, THAT = ".", "that"
SINGULAR_VERBS = tuple(f"{verb}s" for verb in VERBS)
PLURAL_NOUNS = tuple(f"{noun}s" for noun in NOUNS)

WORDS: tuple[str, ...] = (
    STOP, THAT, *DETERMINERS["one"], *DETERMINERS["many"], *ADJECTIVES, *NOUNS, *PLURAL_NOUNS, *SINGULAR_VERBS, *VERBS
)  # fmt: skip
"""Token number -> word."""
VOCABULARY = len(WORDS)
TOPICS = 4
TOPIC_CONCENTRATION = 0.4
"""Of the Dirichlet draws of a topic's words: below 1, a topic has favourites."""
SITE_CONCENTRATION = 0.5
"""Of the Dirichlet draw of a site's topics: below 1, most sites are mainly about one or two."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Topic:
    """What a topic talks about; sites mix these numbers linearly.

    Attributes:
        determiners: (4,) chances of each determiner, singular ones first; they choose the number.
        adjectives: (4,) chances of each adjective.
        nouns: (6,) chances of each noun.
        verbs: (5,) chances of each verb.
        another: chance of an adjective before the noun, again after each.
        clause: chance of a clause after the subject.
        object: chance of an object after the verb.
    """

    determiners: Matrix
    adjectives: Matrix
    nouns: Matrix
    verbs: Matrix
    another: float
    clause: float
    object: float


def draw_topic(rng: np.random.Generator) -> Topic:
    """One random topic."""
    words = (rng.dirichlet(np.full(n, TOPIC_CONCENTRATION)) for n in (4, len(ADJECTIVES), len(NOUNS), len(VERBS)))
    determiners, adjectives, nouns, verbs = words
    # Every determiner stays possible, so that both numbers and all states do.
    determiners = 0.8 * determiners + 0.05
    return Topic(determiners, adjectives, nouns, verbs, *(float(p) for p in rng.uniform(0.1, 0.6, 3)))


def mix_topics(topics: Sequence[Topic], weights: Matrix) -> Topic:
    """The linear mixture of topics, entry by entry."""
    mixed = {
        name: sum(w * getattr(topic, name) for w, topic in zip(weights, topics, strict=True))
        for name in Topic.__dataclass_fields__
    }
    return Topic(**mixed)


def _arcs() -> list[tuple[str, str, str]]:
    """(state, token, next state) of every arc of the automaton."""
    arcs: list[tuple[str, str, str]] = []

    def determiner(state: str, then: str) -> None:
        arcs.extend((state, word, f"{then} {n}") for n in NUMBERS for word in DETERMINERS[n])

    def noun_phrase(state: str, number: str, then: str) -> None:
        arcs.extend((state, word, state) for word in ADJECTIVES)
        arcs.extend((state, word, then) for word in (NOUNS if number == "one" else PLURAL_NOUNS))

    def verb(state: str, number: str, then: str) -> None:
        arcs.extend((state, word, then) for word in (SINGULAR_VERBS if number == "one" else VERBS))

    determiner("start", "subject")
    for n in NUMBERS:
        noun_phrase(f"subject {n}", n, f"clause? {n}")
        arcs.append((f"clause? {n}", THAT, f"that {n}"))
        verb(f"clause? {n}", n, "object?")
        verb(f"that {n}", n, f"clause {n}")
        determiner(f"clause {n}", f"inner {n}")
        for m in NUMBERS:
            noun_phrase(f"inner {n} {m}", m, f"verb {n}")
        verb(f"verb {n}", n, "object?")
    arcs.append(("object?", STOP, "start"))
    determiner("object?", "object")
    for m in NUMBERS:
        noun_phrase(f"object {m}", m, "end")
    arcs.append(("end", STOP, "start"))
    return arcs


ARCS = _arcs()
STATES: tuple[str, ...] = tuple(dict.fromkeys(state for state, _, _ in ARCS))


def _next_states() -> NDArray[np.int64]:
    table = np.full((len(STATES), VOCABULARY), -1, dtype=np.int64)
    for state, word, then in ARCS:
        table[STATES.index(state), WORDS.index(word)] = STATES.index(then)
    return table


NEXT = _next_states()
"""(states, tokens) next state, -1 where the token cannot follow."""


@dataclass(frozen=True)
class Source:
    """A source of tokens: the automaton with one site's probabilities.

    Attributes:
        emit: (states, tokens) probability of each token in each state.
        stationary: (states,) pi, how often each state is visited in the long run.
    """

    emit: Matrix
    stationary: Matrix

    @property
    def entropy(self) -> float:
        """Entropy rate in nats per token, exact; see the module's text."""
        logs = np.log(np.where(self.emit > 0, self.emit, 1.0))
        return float(-(self.stationary @ (self.emit * logs).sum(axis=1)))


def source_of(topic: Topic) -> Source:
    """The source that talks about a topic."""
    emit = np.zeros(NEXT.shape)
    chances = {word: p for words, p in _word_chances(topic) for word, p in zip(words, p, strict=True)}
    for state, word, then in ARCS:
        emit[STATES.index(state), WORDS.index(word)] = chances[word] * _branch_chance(topic, state, word, then)
    chain = np.zeros((len(STATES), len(STATES)))
    rows, tokens = np.nonzero(NEXT >= 0)
    np.add.at(chain, (rows, NEXT[rows, tokens]), emit[rows, tokens])
    # pi (P - I) = 0 together with sum pi = 1 has one solution: every state is reached from every other.
    system = np.vstack([chain.T - np.eye(len(STATES)), np.ones(len(STATES))])
    stationary = np.linalg.lstsq(system, np.append(np.zeros(len(STATES)), 1.0), rcond=None)[0]
    return Source(emit, stationary)


def _word_chances(topic: Topic) -> list[tuple[tuple[str, ...], Matrix]]:
    return [
        ((STOP,), np.ones(1)),
        ((THAT,), np.ones(1)),
        (DETERMINERS["one"] + DETERMINERS["many"], topic.determiners),
        (ADJECTIVES, topic.adjectives),
        (NOUNS, topic.nouns),
        (PLURAL_NOUNS, topic.nouns),
        (VERBS, topic.verbs),
        (SINGULAR_VERBS, topic.verbs),
    ]


def _branch_chance(topic: Topic, state: str, word: str, then: str) -> float:
    """Chance of the branch that a word belongs to, where the state leaves a choice between kinds of words."""
    if state.startswith("clause?"):
        return topic.clause if word == THAT else 1.0 - topic.clause
    if state == "object?":
        return 1.0 - topic.object if word == STOP else topic.object
    if state.split()[0] in ("subject", "inner", "object"):
        return topic.another if then == state else 1.0 - topic.another
    return 1.0


@lru_cache(maxsize=8)
def site_sources(sites: int, seed: int) -> tuple[Source, ...]:
    """The source of every site; a site's does not depend on how many there are.

    Args:
        sites: how many.
        seed: of the topics and of every site's mixture of them.
    """
    topics = [draw_topic(np.random.default_rng([seed, 0, i])) for i in range(TOPICS)]
    sources = []
    for k in range(sites):
        weights = np.random.default_rng([seed, 1, k]).dirichlet(np.full(TOPICS, SITE_CONCENTRATION))
        sources.append(source_of(mix_topics(topics, weights)))
    return tuple(sources)


def sample_windows(source: Source, windows: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Independent stretches of a source's text, each from anywhere in it.

    Args:
        source: whose.
        windows: how many.
        length: tokens of each.
        rng: every draw comes from it.

    Returns:
        (windows, length) int64.
    """
    cumulative = np.cumsum(source.emit, axis=1)
    state = rng.choice(len(source.stationary), size=windows, p=source.stationary / source.stationary.sum())
    tokens = np.empty((windows, length), dtype=np.int64)
    for t in range(length):
        # The last possible token takes what rounding leaves of the unit interval.
        u = rng.random(windows) * cumulative[state, -1]
        tokens[:, t] = (cumulative[state] <= u[:, None]).sum(axis=1)
        state = NEXT[state, tokens[:, t]]
    return tokens


def true_nats(sources: Sequence[Source], windows: NDArray[np.int64]) -> float:
    """Mean nats per token of the true model on windows: the least that any model can reach there, up to chance.

    The true model knows all sources but neither the site of a window (each as likely) nor the state that it starts in; it
    infers both from the tokens so far (Bayes' rule, exact). As a GPT it is told the first token of each window.

    Args:
        sources: of the sites that the windows come from in equal parts.
        windows: (N, length) int64.
    """
    emit = np.stack([source.emit for source in sources])  # (K, states, tokens)
    start = np.stack([source.stationary for source in sources]) / len(sources)
    belief = np.repeat(start[None], len(windows), axis=0)
    total = 0.0
    for t in range(windows.shape[1]):
        token = windows[:, t]
        joint = belief * emit[:, :, token].transpose(2, 0, 1)
        chance = joint.sum(axis=(1, 2))
        if t > 0:
            total -= float(np.log(chance).sum())
        belief = np.zeros_like(belief)
        then = NEXT[:, token]  # (states, N)
        for s in range(len(STATES)):
            live = np.flatnonzero(then[s] >= 0)
            belief[live, :, then[s, live]] += joint[live, :, s] / chance[live, None]
    return total / (windows.shape[0] * (windows.shape[1] - 1))


def spell(tokens: NDArray[np.int64]) -> str:
    """Tokens as readable text."""
    return " ".join(WORDS[token] for token in tokens)
