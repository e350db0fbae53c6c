"""Which items are drawn together for an interval."""

from __future__ import annotations

from mcse.evaluation.uncertainty import sharing_pairs


def test_a_few_clusters_are_not_drawn_as_such():
    """30 pairs of 12 sentences in clusters of 28 and 2 had an interval of a point, and p = 0.003 for any difference."""
    for sizes, is_drawn_together in (((28, 2), False), ((26, 2, 1, 1), False), ((26, 1, 1, 1, 1), True)):
        hub = [f"hub {number}" for number, size in enumerate(sizes) for _ in range(size)]
        cluster_P = sharing_pairs(hub, [f"other {number}" for number in range(30)])
        assert (len(set(cluster_P.tolist())) < 30) == is_drawn_together
