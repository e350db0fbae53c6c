"""Configuration: strict keys, worded errors, and a resolved file that gives the same run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mcse.config import ConfigError, build_config, merge, read_overrides, read_yaml, to_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    learning_rate: float
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optim.learning_rate: must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    recipe: str
    optim: Optim
    output_dir: Path | None = None
    images: Literal[True, "shuffled"] = True
    names: tuple[str, ...] = field(default_factory=tuple)


def build(*arguments: str) -> Example:
    return build_config(Example, read_overrides(arguments), source="run.yaml")


def test_values_get_their_types() -> None:
    config = build("--recipe", "a", "--optim.learning_rate", "1e-5", "--output_dir=runs/a", "--names", "[x, y]")
    assert config == Example(recipe="a", optim=Optim(learning_rate=1e-5), output_dir=Path("runs/a"), names=("x", "y"))
    assert build("--recipe", "a", "--optim.learning_rate", "1", "--images", "shuffled").images == "shuffled"


def test_the_resolved_file_gives_the_same_config(tmp_path: Path) -> None:
    config = build("--recipe", "a", "--optim.learning_rate", "3e-5", "--output_dir=runs/a")
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert build_config(Example, read_yaml(tmp_path / "c.yaml"), source="c.yaml") == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recipe", "a", "--optim.learning_rte", "1"],
            "unknown key 'optim.learning_rte'; did you mean 'optim.learning_rate'",
        ),
        (["--learning_rate", "1"], "unknown key 'learning_rate'; did you mean 'optim.learning_rate'"),
        (["--zzz", "1"], "unknown key 'zzz'; known here: recipe, optim"),
        (["--optim.learning_rate", "1"], "run.yaml: missing key 'recipe'"),
        (["--recipe", "a", "--optim.learning_rate", "x"], "optim.learning_rate: input should be a valid number"),
        (["--recipe", "a", "--optim.learning_rate", "-1"], "optim.learning_rate: must be positive, got -1.0"),
        (
            ["--recipe", "a", "--optim.learning_rate", "1", "--images", "no"],
            "images: input should be True or 'shuffled'",
        ),
        (["--recipe"], "--recipe lacks its value"),
        (["recipe", "a"], "unexpected argument 'recipe'"),
    ],
)
def test_wrong_keys_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(*arguments)
    assert message in str(error.value)


def test_broken_files_are_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("recipe: a\noptim:\n  learning_rate: 1\n  learning_rate: 2\n")
    with pytest.raises(ConfigError, match=r"c.yaml, line 4: key 'learning_rate' stands twice"):
        read_yaml(path)
    path.write_text("recipe: [a\n")
    with pytest.raises(ConfigError, match=r"c.yaml, line 2"):
        read_yaml(path)
    path.write_bytes(b"recipe: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="no file at"):
        read_yaml(tmp_path / "absent.yaml")


def test_the_command_line_wins_over_the_file() -> None:
    tree = merge({"optim": {"learning_rate": 1, "warmup_steps": 3}}, {"optim": {"learning_rate": 2}})
    assert tree == {"optim": {"learning_rate": 2, "warmup_steps": 3}}


@pytest.mark.parametrize("value", ["@x", "a: b: c", "{", "[1"])
def test_a_value_that_is_no_yaml_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="--output_dir: .* is no YAML value"):
        build("--output_dir", value)
