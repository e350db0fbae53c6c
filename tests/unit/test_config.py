"""Configuration: strict keys, variants of a group, worded errors, and a resolved file that gives the same run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mcse.config import ConfigError, build_config, merge, read_overrides, read_yaml, to_dict, to_yaml
from mcse.config_fields import describe, field_docs


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    learning_rate: float
    """Peak rate."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optim.learning_rate: must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    table: str
    columns: tuple[str, ...] = ("a", "b")

    @staticmethod
    def reads(text: str) -> bool:
        return text.endswith(".csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    file: str
    """A text file.

    One sentence a line.
    """

    limit: int | None = None

    @staticmethod
    def reads(text: str) -> bool:
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Recurrent:
    kind: Literal["lstm", "gru"] = "gru"
    layers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Bag:
    kind: Literal["bow"]
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    recipe: str
    optim: Optim
    output_dir: Path | None = None
    images: Literal[True, "shuffled"] = True
    names: tuple[str, ...] = field(default_factory=tuple)
    held_out: int | str | None = None
    is_fast: bool = False
    source: Table | Lines | None = None
    encoder: Recurrent | Bag = field(default_factory=Recurrent)


GIVEN = ("--recipe", "a", "--optim.learning_rate", "1")


def build(*arguments: str) -> Example:
    return build_config(Example, read_overrides(arguments), source="run.yaml")


def from_file(tmp_path: Path, text: str, *arguments: str) -> Example:
    path = tmp_path / "run.yaml"
    path.write_text("recipe: a\noptim: {learning_rate: 1}\n" + text, encoding="utf-8")
    return build_config(Example, merge(read_yaml(path), read_overrides(arguments)), source="run.yaml")


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        build(*arguments)
    return str(error.value)


def test_values_get_their_types() -> None:
    config = build("--recipe", "a", "--optim.learning_rate", "1e-5", "--output_dir=runs/a", "--names", "[x, y]")
    assert config == Example(recipe="a", optim=Optim(learning_rate=1e-5), output_dir=Path("runs/a"), names=("x", "y"))
    assert build(*GIVEN, "--images", "shuffled").images == "shuffled"


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("output_dir", "runs/exp #2", Path("runs/exp #2")),
        ("output_dir", "a: b: c", Path("a: b: c")),
        ("output_dir", "[1", Path("[1")),
        ("output_dir", "null", None),
        ("recipe", "null", "null"),
        ("recipe", "010", "010"),
        ("recipe", "", ""),
        ("held_out", "500", 500),
        ("held_out", "1e3", "1e3"),
        ("held_out", "::val", "::val"),
        ("is_fast", "true", True),
        ("images", "true", True),
        ("names", "[]", ()),
        ("source", "a # b.csv", Table(table="a # b.csv")),
        ("source", "{a,b}.txt", Lines(file="{a,b}.txt")),
        ("source", "{file: x, limit: 3}", Lines(file="x", limit=3)),
        ("encoder", "{kind: bow}", Bag(kind="bow")),
    ],
)
def test_what_is_typed_is_read_by_the_type_of_its_key(flag: str, text: str, value: object) -> None:
    assert getattr(build(*GIVEN, f"--{flag}", text), flag) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0o10", 8), ("0x1F", 31), ("+3", 3), ("1e-5", None), ("1:30", None), ("yes", None), ("1.0", None)],
)
def test_a_file_is_read_by_the_core_schema(tmp_path: Path, text: str, value: int | None) -> None:
    key = f"held_out: {text}\n"
    if value is not None:
        assert from_file(tmp_path, key).held_out == value
    elif text in ("1e-5", "1.0"):
        with pytest.raises(ConfigError, match="held_out: input should be a valid integer or a valid string"):
            from_file(tmp_path, key)
    else:
        assert from_file(tmp_path, key).held_out == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: 1.0", "images: input should be True or 'shuffled', got 1.0"),
        ("images: 1", "images: input should be True or 'shuffled', got 1"),
        ("is_fast: yes", "is_fast: input should be a valid boolean, got 'yes'"),
        ("is_fast: 1", "is_fast: input should be a valid boolean, got 1"),
        ("optim: {learning_rate: true}", "optim.learning_rate: input should be a valid number, got True"),
        ("optim: {learning_rate: .inf}", "optim.learning_rate: input should be a finite number, got inf"),
        ("optim: {learning_rate: 1, warmup_steps: 1.0}", "optim.warmup_steps: input should be a valid integer"),
        ("output_dir: 3", "output_dir: input"),
        ("names: a", "names: expected a list, such as '[a]'"),
        ("optim: null", "optim: expected group of keys, got null"),
        ("optim: 3", "optim: expected group of keys, got 3"),
    ],
)
def test_nothing_is_taken_for_what_it_is_not(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"recipe: a\n{'' if text.startswith('optim') else 'optim: {learning_rate: 1}'}\n{text}\n")
    with pytest.raises(ConfigError) as error:
        build_config(Example, read_yaml(path), source="run.yaml")
    assert f"run.yaml: {message}" in str(error.value)


@pytest.mark.parametrize("text", ["1e-5", "0o17", "010", "yes", "1:30", "null", "~", "3", "a #b", "2020-01-01", "<<"])
def test_the_resolved_file_gives_the_same_config(tmp_path: Path, text: str) -> None:
    config = build("--recipe", text, "--optim.learning_rate", "3e-5", "--output_dir=runs/a", "--source", text)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert build_config(Example, read_yaml(tmp_path / "c.yaml"), source="c.yaml") == config
    # Other programs read YAML 1.1.
    assert yaml.safe_load(to_yaml(config)) == to_dict(config)


# --- variants


def test_a_variant_is_named_by_its_key(tmp_path: Path) -> None:
    assert from_file(tmp_path, "source: {table: x, columns: [c]}").source == Table(table="x", columns=("c",))
    assert from_file(tmp_path, "source: x.csv").source == Table(table="x.csv")
    assert from_file(tmp_path, "source: x.txt").source == Lines(file="x.txt")
    assert from_file(tmp_path, "encoder: {kind: lstm}").encoder == Recurrent(kind="lstm")
    assert from_file(tmp_path, "encoder: {layers: 3}").encoder == Recurrent(layers=3), "the default's variant"
    assert from_file(tmp_path, "").source is None


def test_the_command_line_may_choose_another_variant(tmp_path: Path) -> None:
    base = "source: {file: x, limit: 3}\nencoder: {kind: lstm, layers: 2}\n"
    assert from_file(tmp_path, base, "--source.limit", "4").source == Lines(file="x", limit=4)
    assert from_file(tmp_path, base, "--source", "y.txt").source == Lines(file="y.txt", limit=3)
    assert from_file(tmp_path, base, "--source", "y.csv").source == Table(table="y.csv")
    assert from_file(tmp_path, base, "--source.table", "y").source == Table(table="y")
    assert from_file(tmp_path, base, "--source", "null").source is None
    assert from_file(tmp_path, base, "--encoder.kind", "bow").encoder == Bag(kind="bow")
    assert from_file(tmp_path, base, "--encoder.kind", "gru").encoder == Recurrent(kind="gru", layers=2)
    assert from_file(tmp_path, "source: x.txt", "--source.limit", "4").source == Lines(file="x.txt", limit=4)
    assert build(*GIVEN, "--source.limit", "4", "--source", "x").source == Lines(file="x", limit=4)
    assert build(*GIVEN, "--source", "x", "--source.limit", "4").source == Lines(file="x", limit=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {file: x, table: y}", "source: table and file exclude each other; give one of them"),
        ("source: {limit: 3}", "source: give one of table or file; got 'limit'"),
        ("source: {file: x, columns: [c]}", "unknown key 'source.columns'; it goes with table, not with file"),
        (
            "optim.warmup_steps: 3",
            "unknown key 'optim.warmup_steps'; write 'warmup_steps' in the group 'optim', not as one key with a dot",
        ),
        ("source: {file: x, limt: 3}", "unknown key 'source.limt'; did you mean 'source.limit'?"),
        ("source: 3", "source: expected one of {table, file} or null, got 3"),
        ("encoder: {kind: rnn}", "encoder: kind: input should be 'lstm', 'gru' or 'bow', got 'rnn'"),
        ("encoder: gru", "encoder: expected keys, such as 'kind', got 'gru'"),
        (
            "encoder: {kind: bow, layers: 2}",
            "unknown key 'encoder.layers'; it goes with kind: lstm | gru, not with kind: bow",
        ),
        ("encoder: null", "encoder: expected one of {kind: lstm | gru, kind: bow}, got null"),
    ],
)
def test_wrong_variants_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_file(tmp_path, text)
    assert f"run.yaml: {message}" in str(error.value)


def test_a_misspelt_key_of_the_file_stays_wrong_when_another_variant_is_chosen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'source.limt'"):
        from_file(tmp_path, "source: {file: x, limt: 3}", "--source", "y.csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    path: str
    left: str | None = None

    @staticmethod
    def reads(text: str) -> bool:
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOrGroup:
    dev: str | Pairs | None = None


@pytest.mark.parametrize(
    ("tree", "arguments", "expected"),
    [
        ({"dev": "a.tsv"}, [], "a.tsv"),
        ({"dev": None}, [], None),
        ({"dev": {"path": "a.tsv", "left": "l"}}, [], Pairs(path="a.tsv", left="l")),
        ({"dev": "a.tsv"}, ["--dev.left", "l"], Pairs(path="a.tsv", left="l")),
        ({"dev": {"path": "a.tsv"}}, ["--dev", "null"], None),
        ({}, ["--dev", "b.tsv"], "b.tsv"),
        ({}, ["--dev", "{path: b.tsv}"], Pairs(path="b.tsv")),
    ],
)
def test_a_key_may_be_a_text_or_a_group(tree: dict[str, Any], arguments: list[str], expected: Any) -> None:
    built = build_config(TextOrGroup, merge(tree, read_overrides(arguments)), source="file")
    assert built.dev == expected
    assert build_config(TextOrGroup, yaml.safe_load(to_yaml(built)), source="file") == built


def test_what_is_neither_text_nor_group_is_refused() -> None:
    for tree, message in (
        ({"dev": 3}, "dev: expected text or group of keys or null, got 3"),
        ({"dev": {"pth": "x"}}, "unknown key 'dev.pth'; did you mean 'dev.path'?"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            build_config(TextOrGroup, tree, source="file")


# --- errors


def test_the_nearest_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'optimm'; did you mean 'optim'\?"):
        from_file(tmp_path, "optimm: {learning_rate: 1}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.learning_rte", "1"], "unknown key 'optim.learning_rte'; did you mean 'optim.learning_rate'? (Peak"),
        (["--learning_rate", "1"], "unknown key 'learning_rate'; did you mean 'optim.learning_rate'"),
        (["--encoder.warmup_steps", "1"], "unknown key 'encoder.warmup_steps'; did you mean 'optim.warmup_steps'?"),
        (["--optim.lr", "1"], "unknown key 'optim.lr'; did you mean 'optim.learning_rate'? (Peak rate.)"),
        (["--ws", "1"], "unknown key 'ws'; did you mean 'optim.warmup_steps'?"),
        (["--names", "x"], "names: expected a list, such as '[x]', got 'x'"),
        (["--zzz.deep", "1"], "unknown key 'zzz.deep'; known here: recipe, optim"),
        (["--lmit", "1"], "unknown key 'lmit'; did you mean 'source.limit'"),
        (["--optimm", "{learning_rate: 1}"], "unknown key 'optimm'; did you mean 'optim'?"),
        (["--zzz", "1"], "unknown key 'zzz'; known here: recipe, optim"),
        (["--optim.warmup_steps", "x"], "optim.warmup_steps: input should be a valid integer, got 'x'"),
        (["--optim.warmup_steps", "true"], "optim.warmup_steps: input should be a valid integer, got 'true'"),
        (["--optim.learning_rate", "-1"], "optim.learning_rate: must be positive, got -1.0"),
        (["--optim.learning_rate", "1e999"], "optim.learning_rate: input should be a finite number"),
        (["--images", "no"], "images: input should be True or 'shuffled', got 'no'"),
        (["--names", "[1"], "names: '[1' is no YAML value"),
        (["--names", "[a, [b]]"], "names: input should be a valid string, got ['a', ['b']]"),
        (["--encoder", "null"], "encoder: expected one of {kind: lstm | gru, kind: bow}, got null"),
        (["--optim", "3"], "optim: expected keys, such as 'learning_rate', got '3'"),
    ],
)
def test_a_mistake_on_the_command_line_is_blamed_on_it(arguments: list[str], message: str) -> None:
    assert f"command line: {message}" in refusal("--recipe", "a", "--optim.learning_rate", "1", *arguments)


@pytest.mark.parametrize("number", ["1e300", "-1e39", "1" + "0" * 39, ".inf", ".nan"])
def test_numbers_that_fp32_cannot_hold_are_refused_by_key(tmp_path: Path, number: str) -> None:
    assert "optim.learning_rate: input should be" in refusal("--recipe", "a", "--optim.learning_rate", number)
    path = tmp_path / "run.yaml"
    path.write_text(f"recipe: a\noptim: {{learning_rate: {number}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run.yaml: optim.learning_rate: input should be"):
        build_config(Example, read_yaml(path), source="run.yaml")


def test_whole_numbers_of_more_than_64_bits_are_refused_by_key() -> None:
    assert "optim.warmup_steps: input should be a number of at most 64 bits" in refusal(
        *GIVEN, "--optim.warmup_steps", str(2**63)
    )
    assert build(*GIVEN, "--optim.warmup_steps", str(2**63 - 1)).optim.warmup_steps == 2**63 - 1


def test_all_faults_are_told_each_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        from_file(tmp_path, "is_fast: 3\nzzz: 1\n", "--images", "no", "--optim.warmup", "1")
    faults = str(error.value).splitlines()
    assert [fault.split(": ")[0] for fault in faults] == ["command line", "run.yaml", "run.yaml", "command line"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.learning_rate", "1"], "run.yaml: missing key 'recipe'"),
        (["--recipe", "a", "--optim.warmup_steps", "1"], "run.yaml: missing key 'optim.learning_rate' (Peak rate.)"),
        (["--recipe", "a"], "run.yaml: missing key 'optim.learning_rate' (Peak rate.)"),
        (["--recipe"], "--recipe lacks its value"),
        (["recipe", "a"], "unexpected argument 'recipe'"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments)


def test_broken_files_are_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("recipe: a\noptim:\n  learning_rate: 1\n  learning_rate: 2\n")
    with pytest.raises(ConfigError, match=r"c.yaml, line 4: key 'learning_rate' is given twice"):
        read_yaml(path)
    path.write_text("recipe: [a\n")
    with pytest.raises(ConfigError, match=r"c.yaml, line 2"):
        read_yaml(path)
    path.write_text("recipe: a\n? [b]\n: c\n")
    with pytest.raises(ConfigError, match=r"c.yaml, line 2: a key must be a plain text"):
        read_yaml(path)
    path.write_text("[a]\n")
    with pytest.raises(ConfigError, match="expected 'key: value' lines, found list"):
        read_yaml(path)
    path.write_bytes(b"recipe: \xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="no file at"):
        read_yaml(tmp_path / "absent.yaml")


def test_the_command_line_wins_over_the_file() -> None:
    tree: dict[str, Any] = merge({"optim": {"learning_rate": 1, "warmup_steps": 3}}, {"optim": {"learning_rate": 2}})
    assert tree == {"optim": {"learning_rate": 2, "warmup_steps": 3}}


@pytest.mark.parametrize("flag", ["--parts[].name", "--parts[0].name", "--parts.name", "--parts"])
def test_one_entry_of_a_list_of_groups_is_refused_with_the_form_that_works(flag: str) -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Listed:
        parts: tuple[Lines, ...] = ()

    with pytest.raises(ConfigError, match=r"give it whole, such as --parts '\[\{file: …\}\]'"):
        build_config(Listed, read_overrides((flag, "x")), source="run.yaml")
    whole = build_config(Listed, read_overrides(("--parts", "[{file: x}]")), source="run.yaml")
    assert whole.parts == (Lines(file="x"),)


# --- groups with a default of their own


@dataclass(frozen=True, kw_only=True, slots=True)
class Margin:
    negative: float = 0.0
    positive: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    margin: Margin | None = field(default_factory=lambda: Margin(negative=0.15))
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    loss: Loss = field(default_factory=lambda: Loss(margin=Margin(negative=0.2), scale=3.0))
    encoder: Recurrent | Bag = field(default_factory=lambda: Recurrent(kind="lstm", layers=2))
    sparse: Loss = field(default_factory=lambda: Loss(margin=None))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), Loss(margin=Margin(negative=0.2), scale=3.0)),
        (("--loss.margin.positive", "0.1"), Loss(margin=Margin(negative=0.2, positive=0.1), scale=3.0)),
        (("--loss.margin", "{}"), Loss(margin=Margin(negative=0.2), scale=3.0)),
        (("--loss.margin", "{positive: 0.1}"), Loss(margin=Margin(negative=0.2, positive=0.1), scale=3.0)),
        (
            ("--loss.margin", "{negative: 0.3, positive: 0.1}", "--loss.margin.negative", "0.4"),
            Loss(margin=Margin(negative=0.4, positive=0.1), scale=3.0),
        ),
        (("--loss.margin", "null"), Loss(margin=None, scale=3.0)),
        (("--loss.scale", "2"), Loss(margin=Margin(negative=0.2), scale=2.0)),
    ],
)
def test_keys_that_are_not_given_keep_the_default_of_their_group(arguments: tuple[str, ...], wanted: Loss) -> None:
    assert build_config(Method, read_overrides(arguments), source="run.yaml").loss == wanted
    tree = yaml.safe_load(to_yaml(Method()))
    assert build_config(Method, merge(tree, read_overrides(arguments)), source="run.yaml").loss == wanted


def test_another_variant_than_the_default_has_its_own_defaults() -> None:
    one = build_config(Method, read_overrides(("--encoder.layers", "5")), source="run.yaml")
    assert one.encoder == Recurrent(kind="lstm", layers=5)
    assert build_config(Method, read_overrides(("--encoder.kind", "bow")), source="run.yaml").encoder == Bag(kind="bow")


def test_what_a_group_leaves_out_by_default_begins_with_the_defaults_of_its_class() -> None:
    one = build_config(Method, read_overrides(("--sparse.margin.positive", "0.1")), source="run.yaml")
    assert one.sparse.margin == Margin(positive=0.1)


def test_the_described_default_is_the_one_that_holds() -> None:
    infos = {info.key: info.default for info in describe(Method)}
    assert (infos["loss.margin.negative"], infos["loss.scale"]) == ("0.2", "3.0")
    assert infos["sparse.margin"] == "null"
    assert infos["sparse.margin.negative"] == "0.0"


# --- what there is


def test_every_key_is_described() -> None:
    infos = {(info.tag, info.key): info for info in describe(Example)}
    assert infos["", "optim.learning_rate"].doc == "Peak rate."
    assert infos["", "optim.learning_rate"].default is None
    assert infos["", "images"].choices == ("true", "shuffled")
    assert infos["", "names"].type == "list of text"
    assert infos["", "held_out"].type == "integer or text or null"
    assert infos["", "source"].type == "one of {table, file} or null"
    assert infos["source.table", "source.columns"].default == "[a, b]"
    assert infos["source.file", "source.file"].summary == "A text file."
    assert infos["source.file", "source.file"].doc.endswith("One sentence a line.")
    assert "optim" not in {info.key for info in infos.values()}, "a group's keys stand for it"


def test_docs_are_inherited() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Stepped(Optim):
        steps: int = 1

    assert field_docs(Stepped) == {"learning_rate": "Peak rate."}
