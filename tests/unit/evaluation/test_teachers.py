import json

import pytest

from mcse.evaluation.teachers import teachers_of

FACTS = {
    "encoder": "some/model",
    "weights": "d",
    "pooling": "mean",
    "prompt": "",
    "joint": "",
    "length": "",
    "untrained": "",
    "texts": "3",
}


def run_with_store(folder, *, control=True, **facts):
    (folder / "rows").mkdir()
    (folder / "rows" / "meta.json").write_text(json.dumps(FACTS | facts))
    teachers = [{"name": "a", "store": "rows"}, {"name": "b", "encoder": "other/model", "pooling": "cls", "weight": 3}]
    config = {"recipe": "simcse", "train": {}, "data": {"root": str(folder)}, "teachers": teachers}
    config["controls"] = {"teachers": control}
    (folder / "config.yaml").write_text(json.dumps(config))
    return teachers_of(folder)


def test_each_teacher_and_their_average_are_models(tmp_path):
    found = run_with_store(tmp_path)
    assert found.models == {
        "teacher a": "average:1=some/model@mean",
        "teacher b": "average:1=other/model@cls",
        "average of teachers": "average:0.25=some/model@mean+0.75=other/model@cls",
    }
    assert not found.problems


def test_rows_of_teachers_that_a_control_stood_in_for_say_so(tmp_path):
    found = run_with_store(tmp_path, control="shuffled")
    assert len(found.models) == 3
    assert all(title.endswith(" (controls.teachers shuffled was read instead)") for title in found.models)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prompt", "query: ", "a prompt"),
        ("joint", "True", "the space that it shares with images"),
        ("length", "32", "texts cut to 32 tokens"),
        ("untrained", "0", "random weights"),
    ],
)
def test_rows_that_no_model_gives_by_its_name_alone_are_named_and_left_out(tmp_path, key, value, said):
    found = run_with_store(tmp_path, **{key: value})
    assert list(found.models) == ["teacher b"]
    assert "teacher a" in found.problems[0]
    assert said in found.problems[0]
    assert "average" in found.problems[1]
