import math

import numpy as np
import pytest

from fedcore.data.grammar import (
    ARCS,
    NEXT,
    STATES,
    VOCABULARY,
    WORDS,
    Topic,
    draw_topic,
    mix_topics,
    sample_windows,
    site_sources,
    source_of,
    spell,
    true_nats,
)

SITES = 4


def test_the_automaton_is_what_the_grammar_says():
    assert len(WORDS) == len(set(WORDS)) == VOCABULARY == 32
    assert len(STATES) == 19
    # One next state per state and token: this is what makes the entropy rate exact.
    assert len({(state, word) for state, word, _ in ARCS}) == len(ARCS)
    assert {then for _, _, then in ARCS} == set(STATES)


@pytest.mark.parametrize(
    ("sentence", "grammatical"),
    [
        ("a small old cell feeds .", True),
        ("some cells feed a root .", True),
        ("each worm that meets some old seeds holds most stones .", True),
        ("some worms that meet a seed hold .", True),
        ("a cell feed .", False),
        ("some worms that meet a seed holds .", False),
        ("each worm that meet a seed holds .", False),
        ("a cells feed .", False),
        ("a small feeds .", False),
        ("a cell that feeds a root that meets a seed moves .", False),
    ],
)
def test_sentences(sentence, grammatical):
    state = STATES.index("start")
    for word in sentence.split():
        state = NEXT[state, WORDS.index(word)] if state >= 0 else -1
    assert (state == STATES.index("start")) == grammatical


def entropy(p) -> float:
    return -sum(x * math.log(x) for x in np.asarray(p).tolist() if x > 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_entropy_rate_is_entropy_per_sentence_over_mean_length(seed):
    topic = draw_topic(np.random.default_rng(seed))
    adjectives = topic.another / (1 - topic.another)
    choice = {name: entropy([getattr(topic, name), 1 - getattr(topic, name)]) for name in ("another", "clause", "object")}
    phrase = entropy(topic.determiners) + (adjectives + 1) * choice["another"] + adjectives * entropy(topic.adjectives)
    phrase += entropy(topic.nouns)
    length = 2 + adjectives
    verb = entropy(topic.verbs)
    bits = phrase + choice["clause"] + topic.clause * (verb + phrase) + verb + choice["object"] + topic.object * phrase
    words = length + topic.clause * (2 + length) + 1 + topic.object * length + 1
    source = source_of(topic)
    assert source.entropy == pytest.approx(bits / words, rel=1e-9)
    np.testing.assert_allclose(source.emit.sum(axis=1), 1.0, rtol=1e-12)
    assert source.stationary.sum() == pytest.approx(1.0)
    assert (source.stationary > 0).all()


def test_the_entropy_rate_is_what_the_true_model_loses_on_long_text():
    for source in site_sources(SITES, 3):
        text = sample_windows(source, 40, 1500, np.random.default_rng(5))
        # Standard deviation of a token's surprise is about 1 nat: 60,000 of them give 0.004.
        assert true_nats([source], text) == pytest.approx(source.entropy, abs=0.015)
        visits = np.zeros(len(STATES))
        for row in text[:, :400]:
            state = -1
            for token in row:  # from the first full stop on, the state is known
                state = NEXT[state, token] if state >= 0 else (STATES.index("start") if WORDS[token] == "." else -1)
                if state >= 0:
                    visits[state] += 1
        assert np.abs(visits / visits.sum() - source.stationary).sum() < 0.1
        assert all(word in WORDS for word in spell(text[0, :30]).split())


def test_the_true_model_is_the_mixture_over_sites_and_starts():
    sources = site_sources(3, 1)
    text = sample_windows(sources[1], 5, 4, np.random.default_rng(0))

    def chance(tokens) -> float:
        total = 0.0
        for source in sources:
            for start, p in enumerate(source.stationary):
                state = start
                for token in tokens:
                    p = p * source.emit[state, token]
                    if p == 0:
                        break
                    state = NEXT[state, token]
                total += p / len(sources)
        return total

    expected = np.mean([(math.log(chance(row[:1])) - math.log(chance(row))) / 3 for row in text])
    assert true_nats(sources, text) == pytest.approx(expected, rel=1e-9)


def test_sites_differ_and_do_not_depend_on_how_many_there_are():
    sources = site_sources(SITES, 0)
    again = site_sources(SITES + 2, 0)
    assert all(np.array_equal(a.emit, b.emit) for a, b in zip(sources, again, strict=False))
    rng = np.random.default_rng(0)
    texts = [sample_windows(source, 60, 100, rng) for source in sources]
    loss = np.array([[true_nats([model], text) for model in sources] for text in texts])
    foreign = loss - np.diag(loss)[:, None]
    assert foreign[~np.eye(SITES, dtype=bool)].mean() > 0.05
    # Whoever may take any site for possible loses little: a window tells where it is from.
    assert np.mean([true_nats(sources, text) for text in texts]) < loss.mean() - 0.02
    assert not np.array_equal(sources[0].emit, site_sources(SITES, 1)[0].emit)


def test_windows_are_seeded_and_stay_within_the_grammar():
    source = site_sources(1, 0)[0]
    text = sample_windows(source, 30, 50, np.random.default_rng(2))
    assert np.array_equal(text, sample_windows(source, 30, 50, np.random.default_rng(2)))
    assert not np.array_equal(text, sample_windows(source, 30, 50, np.random.default_rng(3)))
    for row in text:
        states = np.arange(len(STATES))
        for token in row:
            states = np.unique(NEXT[states, token])
            states = states[states >= 0]
            assert len(states)
    assert (text[:, 0] != text[0, 0]).any()


def test_topics_mix_entry_by_entry():
    one, two = (draw_topic(np.random.default_rng(k)) for k in (0, 1))
    mixed = mix_topics([one, two], np.array([0.25, 0.75]))
    assert isinstance(mixed, Topic)
    np.testing.assert_allclose(mixed.nouns, 0.25 * one.nouns + 0.75 * two.nouns)
    assert mixed.clause == pytest.approx(0.25 * one.clause + 0.75 * two.clause)
