"""Settings: strict, frozen, with an error that names the nearest key, and the same after a round trip."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import hpc_brainage
from hpc_brainage.config import RunConfig, load_config, parse_config, to_toml
from hpc_brainage.errors import UsageError

PACKAGE = Path(hpc_brainage.__file__).parent
RECIPES = sorted((PACKAGE.parent / "configs").glob("*.toml"))


def test_without_a_file_the_defaults_hold() -> None:
    assert load_config() == RunConfig()


@pytest.mark.parametrize("path", [*RECIPES, PACKAGE / "cli" / "demo.toml"], ids=lambda path: path.name)
def test_every_recipe_that_comes_with_the_project_loads(path: Path) -> None:
    assert load_config(path) != RunConfig()


def test_a_setting_is_laid_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepochs = 3\nseed = 7\n")
    training = load_config(path, ["training.epochs=5"]).training
    assert (training.epochs, training.seed) == (5, 7)


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("training.epochs=12", "training", "epochs", 12),
        ("training.learning_rate=1e-2", "training", "learning_rate", 0.01),
        ("loss.age=2", "loss", "age", 2.0),
        ("smri.use=true", "smri", "use", True),
        ("smri.use=True", "smri", "use", True),
        ("fmri.use=false", "fmri", "use", False),
        ("smri.hidden=[64,32]", "smri", "hidden", (64, 32)),
        ("smri.hidden=[]", "smri", "hidden", ()),
        ("smri.tables=['vbm_roi','desikan']", "smri", "tables", ("vbm_roi", "desikan")),
        ("loss.ratio_kind=bounded", "loss", "ratio_kind", "bounded"),
        ("loss.ratio_kind='bounded'", "loss", "ratio_kind", "bounded"),
        (" training.epochs = 12 ", "training", "epochs", 12),
    ],
)
def test_a_setting_is_read_as_a_shell_user_writes_it(
    setting: str, section: str, key: str, value: object
) -> None:
    read = getattr(getattr(load_config(None, [setting]), section), key)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=3", "did you mean 'epochs'"),
        ("trainig.epochs=3", "did you mean 'training'"),
        ("training.x.y=3", "unknown setting"),
        ("zzzz.epochs=3", "known: fmri, loss, model, smri, training"),
        ("epochs=3", "expected: --set section.key=value"),
        ("training.epochs", "expected: --set section.key=value"),
        ("training.=3", "expected: --set section.key=value"),
        (".epochs=3", "expected: --set section.key=value"),
        ("=3", "expected: --set section.key=value"),
        ("", "expected: --set section.key=value"),
    ],
)
def test_an_unknown_setting_names_the_nearest(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, [setting])


@pytest.mark.parametrize(
    "setting",
    [
        "training.epochs=many",
        "training.epochs=2.5",
        "training.epochs=2.0",
        "training.epochs=true",
        "training.epochs='3'",
        "training.epochs=None",
        "training.epochs=",
        "training.epochs=0",
        "training.folds=1",
        "smri.use=yes",
        "smri.use=1",
        "training.zero_stage=4",
        "training.validation=0.5",
        "training.learning_rate=inf",
        "loss.kl=nan",
        "loss.kl=-1",
        "model.sex=both",
        "smri.hidden=64",
        "smri.hidden=[64, 0]",
        "smri.hidden=[64, '32']",
        "smri.tables=vbm_roi",
        pytest.param("smri.hidden=" + "[" * 9999, id="nested without end"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_and_named(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(UsageError) as raised:
        load_config(None, [setting])
    assert str(raised.value.where).startswith(key)
    assert "not " in raised.value.what
    assert len(str(raised.value)) < 500
    assert "tuple" not in str(raised.value)


def test_settings_that_contradict_each_other_are_said_in_our_own_words() -> None:
    with pytest.raises(UsageError) as raised:
        load_config(None, ["training.drop_smri=0.6", "training.drop_fmri=0.6"])
    assert raised.value.what == "drop_smri and drop_fmri together may be at most 1"
    assert raised.value.where == "training"


def test_the_file_of_a_wrong_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[model]\nshraed = 3\n")
    with pytest.raises(UsageError, match="did you mean 'shared'") as raised:
        load_config(path)
    assert raised.value.where == f"model.shraed in {path}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training = 3", "training is a section, not 3"),
        ("[training\n", "not readable as TOML"),
        ("[training]\nepochs = 3\nepochs = 4\n", "not readable as TOML"),
        (b"\xff\xfe", "not readable as TOML"),
        ("x = " + "[" * 9999, "not readable as TOML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        load_config(path, ["training.epochs=3"])


def test_a_missing_file_names_one_of_a_similar_name(tmp_path: Path) -> None:
    (tmp_path / "abide-multimodal.toml").write_text("")
    with pytest.raises(UsageError, match=r"did you mean 'abide-multimodal\.toml'"):
        load_config(tmp_path / "abide_multimodal.toml")
    with pytest.raises(UsageError, match="not there"):
        load_config(tmp_path / "nowhere" / "run.toml")
    with pytest.raises(UsageError, match="not readable"):
        load_config(tmp_path)


def test_settings_cannot_be_changed_afterwards() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


def test_every_modality_has_its_section() -> None:
    config = load_config(None, ["fmri.components=7"])
    assert config.modality("fmri").components == 7
    assert config.modality("smri") is config.smri


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
contents = st.fixed_dictionaries(
    {},
    optional={
        "smri": st.fixed_dictionaries(
            {},
            optional={
                "use": st.booleans(),
                "tables": st.lists(names, max_size=3),
                "hidden": st.lists(st.integers(1, 4096), max_size=4),
                "clip_sd": st.floats(1e-12, 1e12),
            },
        ),
        "loss": st.fixed_dictionaries(
            {},
            optional={
                "kl": st.floats(0, 1e300),
                "ratio_kind": st.sampled_from(["l2", "sq", "batch_sq", "log", "bounded"]),
            },
        ),
        "training": st.fixed_dictionaries(
            {},
            optional={"seed": st.integers(0, 2**31 - 1), "validation": st.floats(0, 0.49)},
        ),
    },
)


@settings(deadline=None, max_examples=100)
@given(contents)
def test_written_as_toml_and_read_again_the_settings_are_the_same(content: dict[str, Any]) -> None:
    config = parse_config(content)
    again = parse_config(tomllib.loads(to_toml(config)))
    assert again == config
    for name in content.get("smri", {}).get("tables", ()):
        assert name in again.smri.tables
    assert math.copysign(1, again.loss.kl) == math.copysign(1, config.loss.kl)


def test_json_gives_the_same_settings_too() -> None:
    """A model bundle keeps its settings as JSON, which has no tuples."""
    config = load_config(None, ["smri.hidden=[8,4]", "smri.tables=['a']"])
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("encoder", "hidden"),
    [
        ("mlp", (256, 128)),
        ("frozen", ()),
        ("sfcn", (32, 64, 128, 256, 256, 64)),
        ("resnet18_3d", ()),
        ("densenet121_3d", ()),
    ],
)
def test_what_is_left_out_is_as_the_encoder_needs_it(encoder: str, hidden: tuple[int, ...]) -> None:
    config = load_config(None, [f"smri.encoder={encoder}"])
    assert config.smri.hidden == hidden
    assert config.smri.components == (0 if encoder == "frozen" else 256)
    assert parse_config(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("smri.encoder=resnet18_3d", "smri.hidden=[8,16]"), "resnet18_3d has one shape only"),
        (("smri.encoder=frozen", "smri.hidden=[8]"), "frozen has one shape only"),
        (("smri.encoder=frozen", "smri.components=4"), "frozen takes no components"),
        (("smri.encoder=sfcn", "smri.hidden=[8]"), "at least two channels"),
        (("smri.checkpointing=true",), "checkpointing is for volumes"),
        (("smri.encoder=frozen", "smri.decoder=volume"), "for volumes, not for the encoder frozen"),
    ],
)
def test_settings_that_do_not_fit_the_encoder_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, settings)
