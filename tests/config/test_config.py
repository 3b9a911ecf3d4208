import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from wmtp.config import Config, Recipe, changed_keys, load, override, recipe_from, to_dict, to_yaml
from wmtp.errors import WMTPError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("override_", "expected"),
    [
        ("model.hiden_size=3", "unknown key 'model.hiden_size'; did you mean 'hidden_size'?"),
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train'?"),
        ("loss.lamda=0.5", "unknown key 'loss.lamda'; did you mean 'lambda'"),
        ("devices.threds=2", "unknown key 'devices.threds'; did you mean 'threads'?"),
        ("train.algo=rho-wmtp", "unknown algo 'rho-wmtp'; did you mean 'rho1-wmtp'"),
        ("loss.lambda=1.1", "loss.lambda: input should be less than or equal to 1, not 1.1"),
        ("loss.lambda=-0.1", "loss.lambda: input should be greater than or equal to 0"),
        ("loss.lambda=.nan", "loss.lambda"),
        ("loss.temperature=0", "loss.temperature: input should be greater than 0"),
        ("loss.epsilon=1", "loss.epsilon: input should be less than 1"),
        ("loss.max_weight=1", "loss.max_weight: input should be greater than 1"),
        (
            "rho1.percentile_top_p=0",
            "override rho1.percentile_top_p=0: loss.top_p: input should be greater than 0",
        ),
        ("model.heads=256", "model.heads 256 does not fit into rows of data.sequence_length 256"),
        ("model.attention_heads=3", "hidden_size 256 is not a multiple of attention_heads"),
        ("model.placement=replace", "placement replace needs more layers (4) than heads (4)"),
        ("train.micro_batch_size=5", "batch_size 32 is not a multiple of micro_batch_size"),
        ("train.steps=none", "train.steps: input should be a valid integer"),
        ("data.fields={prompt: x}", "name either text, or both prompt and completion"),
        ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
        ("seed=99999999999999999999", "seed: input should be less than 9223372036854775808, not 9999"),
        ("data.tinycode.seed=-1", "data.tinycode.seed: input should be greater than or equal to 0"),
        ("compare.seeds=[9223372036854775808]", "compare.seeds.0: input should be less than"),
        (
            "data.validation=1",
            "data.validation: should be a path, or a share of the rows above 0 and below 1",
        ),
        ("data.validation=''", "data.validation: should be a path, or a share"),
        ("data.source=''", "data.source: string should have at least 1 character"),
        ("nonsense", "override 'nonsense' should look like key.sub=value"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override_: str, expected: str) -> None:
    with pytest.raises(WMTPError) as caught:
        load(None, None, [override_])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override_", "expected"),
    [
        (
            "model.layers=0",
            "override model.layers=0: model.layers: input should be greater than or equal to 2",
        ),
        ("model.layrs=1", "override model.layrs=1: unknown key 'model.layrs'"),
        ("model={layers: 0}", "override model={layers: 0}: model.layers: input"),
        ("model.heads=256", "override model.heads=256: model.heads 256 does not fit into rows"),
        ("devices.threads=x", "override devices.threads=x: devices.threads: input"),
        ("train.steps=[", "override train.steps=[: the value is no YAML"),
    ],
)
def test_a_mistake_of_the_command_line_is_not_the_files(
    override_: str, expected: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "recipe.yaml", "name: mine\n")
    with pytest.raises(WMTPError) as caught:
        load(path, None, ["seed=1", "data.vocab_size=300", override_])
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    write(path, "model: {heads: -1}\n")
    with pytest.raises(WMTPError, match=r"recipe\.yaml: model\.heads: input"):
        load(path, None, ["model.layers=3"])


def test_extends_interpolation_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base.yaml", "name: base\ntrain: {steps: 10, lr: 0.1}\n")
    child = write(
        tmp_path / "child.yaml",
        "extends: base.yaml\nname: ${oc.env:WMTP_TEST_NAME,fallback}\ntrain: {lr: 0.2}\n",
    )
    recipe, _ = load(child)
    assert (recipe.name, recipe.train.steps, recipe.train.lr) == ("fallback", 10, 0.2)
    monkeypatch.setenv("WMTP_TEST_NAME", "given")
    recipe, config = load(child, None, ["train.lr=0.3", "devices.threads=2", "compare.seeds=[1,2]"])
    assert (recipe.name, recipe.train.lr, recipe.compare.seeds) == ("given", 0.3, [1, 2])
    assert config.devices.threads == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: self.yaml\n", "extends itself"),
        ("extends: missing.yaml\n", "missing.yaml: no such file"),
        ("- a\n- b\n", "should be a mapping of sections"),
        ("train: {steps: [\n", "cannot be read"),
        ("name: ${oc.env:WMTP_NOT_SET}\n", "WMTP_NOT_SET"),
        ("train: 3\n", "train: input should be"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "self.yaml", text)
    with pytest.raises(WMTPError) as caught:
        load(path)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_resolved_file_reads_back_the_same(tmp_path: Path) -> None:
    recipe, _ = load(None, None, ["loss.lambda=0.5", "compare.arms={a: {model.heads: 1}}", "seed=3"])
    again, _ = load(write(tmp_path / "r.yaml", to_yaml(recipe)))
    assert again == recipe
    assert yaml.safe_load(to_yaml(recipe))["loss"]["lambda"] == 0.5


def test_override_and_changed_keys() -> None:
    changed = override(Recipe(), {"model.heads": 1, "loss.lambda": 0.5}, "arm x")
    assert changed_keys(Recipe(), changed) == ["loss.lambda", "model.heads"]
    with pytest.raises(WMTPError, match=r"arm x: unknown key 'model\.head'; did you mean 'heads'"):
        override(Recipe(), {"model.head": 1}, "arm x")


def test_percentile_of_rho1_goes_before_top_p() -> None:
    recipe, _ = load(None, None, ["loss.top_p=0.3", "rho1.percentile_top_p=0.7"])
    assert recipe.loss.top_p == 0.7
    assert load(None, None, ["loss.top_p=0.3"])[0].loss.top_p == 0.3


def test_a_recipe_that_another_version_wrote() -> None:
    assert recipe_from(to_dict(Recipe()), "step-8") == Recipe()
    with pytest.raises(WMTPError, match=r"^step-8: unknown key 'critic\.centring'; "):
        recipe_from({"critic": {"centring": 0.05}}, "step-8")


def numbers(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """The keys that hold neither text nor a section nor a switch."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{before}{key}.")
        elif not isinstance(value, str | bool):
            yield f"{before}{key}"


@pytest.mark.parametrize(
    "value", ["-1", "2147483648", f"1{'0' * 400}", f"1{'0' * 5000}", ".nan", "-.inf", "[]"]
)
def test_no_number_leads_to_anything_but_one_line_for_each_key(value: str) -> None:
    keys = [*numbers(to_dict(Recipe())), *numbers(to_dict(Config()))]
    assert {"seed", "train.steps", "train.lr", "data.tinycode.train", "data.validation"} <= set(keys)
    for key in keys:
        try:
            load(None, None, [f"{key}={value}"])
        except WMTPError as error:
            lines = str(error).splitlines()
            assert all(line.startswith("override ") and key.split(".")[-1] in line for line in lines)


@pytest.mark.parametrize(
    "key",
    [
        "model.hidden_size",
        "model.layers",
        "model.heads",
        "data.vocab_size",
        "data.sequence_length",
        "train.steps",
    ],
)
def test_sizes_are_bounded(key: str) -> None:
    with pytest.raises(WMTPError, match=rf"{key}: input should be less than or equal to \d+, not 2147483648"):
        load(None, None, [f"{key}=2147483648"])


def test_configuration_does_not_import_torch() -> None:
    code = "import sys, wmtp.config, wmtp.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_looks_like_a_date_is_text_in_overrides_as_in_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: 2024-01-31\n")
    in_file, _ = load(path, None, [])
    overridden, _ = load(path, None, ["name=2024-01-30"])
    assert (in_file.name, overridden.name) == ("2024-01-31", "2024-01-30")
