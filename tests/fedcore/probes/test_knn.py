import numpy as np
import pytest

from fedcore.probes import knn_accuracy
from fedcore.probes.knn import knn_guesses, protocol_neighbours


def clusters(n: int, seed: int, spread: float = 0.2, weights=(1 / 3, 1 / 3, 1 / 3)):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=weights)
    centres = np.array([[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]], np.float32)
    return (centres[labels] + spread * rng.normal(size=(n, 4))).astype(np.float32), labels


def test_separable_clusters_are_told_apart_and_noise_is_not():
    train, test = clusters(90, 0), clusters(60, 1)
    assert knn_accuracy(*train, *test) == 1.0
    assert knn_accuracy(*train, *test, k=1) == 1.0
    rng = np.random.default_rng(2)
    noise = [(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 3, n)) for n in (300, 300)]
    assert 0.2 < knn_accuracy(*noise[0], *noise[1]) < 0.47


def test_more_neighbours_than_images_is_no_error():
    assert knn_accuracy(*clusters(9, 0), *clusters(20, 1), k=500) == 1.0


def test_nearer_neighbours_have_more_votes():
    train = np.array([[1, 0], [0.7, 0.75], [0.7, 0.75], [-2.4, -1.5]], np.float32)
    train -= train.mean(0)
    labels = np.array([1, 0, 0, 2])
    query = train[:1]
    assert knn_accuracy(train, labels, query, np.array([1]), k=3, temperature=0.05) == 1.0
    assert knn_accuracy(train, labels, query, np.array([0]), k=3, temperature=100.0) == 1.0


def test_balanced_accuracy_is_the_mean_over_classes():
    train = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    labels = np.array([0, 1, 0])
    test = np.array([[1, 0], [1, 0.1], [1, -0.1], [1, 0]], np.float32)
    truth = np.array([0, 0, 0, 1])
    assert knn_accuracy(train, labels, test, truth, k=1) == 0.75
    assert knn_accuracy(train, labels, test, truth, k=1, balanced=True) == 0.5


def test_a_common_offset_does_not_matter():
    (a, la), (b, lb) = clusters(90, 0, 1.0), clusters(60, 1, 1.0)
    shifted = knn_accuracy(a + 50, la, b + 50, lb)
    assert shifted == pytest.approx(knn_accuracy(a, la, b, lb), abs=0.02)
    assert shifted > 0.8


@pytest.mark.parametrize(
    ("n", "classes", "k"),
    # CIFAR-10, CIFAR-100, plankton, a few tiles, a handful
    [(50_000, 10, 200), (50_000, 100, 50), (11_087, 33, 33), (600, 4, 15), (100, 10, 5), (3, 2, 3)],
)
def test_the_protocols_neighbours(n, classes, k):
    assert protocol_neighbours(n, classes) == k


def test_without_a_k_the_protocols_is_taken():
    (x, y), (z, truth) = clusters(600, 0, 2.0), clusters(200, 1, 2.0)
    default = knn_guesses(x, y, z)
    assert np.array_equal(default, knn_guesses(x, y, z, k=20))
    assert not np.array_equal(default, knn_guesses(x, y, z, k=1))
    assert knn_accuracy(x, y, z, truth) == np.mean(default == truth)


def test_votes_by_hand():
    train = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [-2.2, 0]], np.float32)
    labels = np.array([1, 0, 0, 2])
    # Similarities 1, 0.6 and 0.6: two votes of exp(0.6 / t) beat one of exp(1 / t) where t > 0.4 / ln 2 = 0.577.
    assert knn_guesses(train, labels, train[:1], k=3, temperature=0.57).tolist() == [1]
    assert knn_guesses(train, labels, train[:1], k=3, temperature=0.585).tolist() == [0]
