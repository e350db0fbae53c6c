"""BIO tags, their repair and counts."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.text.tags import Repairs, TagSet, check_tag, repair_tags


def test_repair_opens_what_continues_nothing():
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG", "I-ORG", "B-PER", "I-PER"]
    repaired, repairs = repair_tags(tags)
    assert repaired == ("B-PER", "I-PER", "O", "B-LOC", "B-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert repairs == Repairs(orphan=2, mistyped=1)
    assert repairs.total == 3
    assert repair_tags(repaired) == (repaired, Repairs())


def test_tag_set_names_ids_and_order():
    tags = TagSet(("LOC", "PER"))
    assert tags.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert len(tags) == 5
    assert tags.ids(["I-PER", "O"]).tolist() == [4, 0]
    follow = tags.may_follow()
    assert [tags.names[i] for i in np.flatnonzero(follow[:, 2])] == ["B-LOC", "I-LOC"]
    assert follow[:, [0, 1, 3]].all()
    assert tags.may_start().tolist() == [True, True, False, True, False]
    with pytest.raises(ValueError, match="'B-MISC' is none of"):
        tags.ids(["B-MISC"])


@pytest.mark.parametrize("tag", ["B", "I-", "X", "[SEP]", "b-PER"])
def test_no_tag_is_refused_with_its_place(tag):
    with pytest.raises(ValueError, match="here: tag"):
        check_tag(tag, where="here")
