"""One TOML per run, read into frozen and strict settings.

An unknown key is an error that names the nearest known one; nothing is ignored. What a user may set is
what stands here, with its meaning; everything else (the DeepSpeed configuration, for one) is derived.
"""

from __future__ import annotations

import ast
import json
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from hpc_brainage.errors import UsageError, nearest

Names = Annotated[tuple[str, ...], Strict(False)]  # TOML and JSON have lists only
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]


class Section(BaseModel):
    """A table of settings: frozen, and strict about names and kinds."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Settings = TypeVar("Settings", bound=Section)

VOLUME_ENCODERS = ("sfcn", "resnet18_3d", "densenet121_3d")
"""Encoders that take one volume; the others take feature tables."""

SFCN_CHANNELS = (32, 64, 128, 256, 256, 64)
"""Channels of the SFCN in its paper (Peng et al. 2021)."""


class ModalityConfig(Section):
    """One branch of the model: what feeds it and how it is encoded."""

    use: bool = True
    """Train on this role when the store has it."""
    tables: Names = ()
    """Names of the store's modalities of this role; empty means all of its feature tables."""
    components: int = Field(256, ge=0)
    """Principal components kept by the front end, fitted on training people; 0 keeps the features."""
    clip_sd: float = Field(5.0, gt=0)
    """Standardised features are clipped to this many standard deviations."""
    max_missing: float = Field(0.2, ge=0, lt=1)
    """A feature missing in more than this share of the training people is not used."""
    encoder: Literal["mlp", "frozen", "sfcn", "resnet18_3d", "densenet121_3d"] = "mlp"
    """`mlp` for feature tables. `frozen` for a table of embeddings that a network somewhere else computed:
    they are standardised and one linear layer turns them into codes, without components or hidden layers.
    `sfcn`, `resnet18_3d` and `densenet121_3d` for one volume."""
    hidden: Widths = (256, 128)
    """Widths of the MLP's hidden layers, or channels of the SFCN's blocks, of which the last is a
    convolution of single voxels. Left out, the SFCN has the channels of its paper. The other encoders have
    one shape only, and nothing here."""
    checkpointing: bool = False
    """Of a volume's encoder: compute each block a second time in the backward pass instead of keeping what
    it computed. Less memory, about a third more computation, the same gradients."""
    decoder: Literal["coarse", "volume"] = "coarse"
    """What is rebuilt of a volume: its means over coarse blocks, or every voxel."""

    @model_validator(mode="before")
    @classmethod
    def _what_the_encoder_brings(cls, values: Any) -> Any:
        """What is left out is as the encoder needs it, not as the MLP does."""
        if isinstance(values, dict) and values.get("encoder", "mlp") != "mlp":
            brought: dict[str, Any] = {"hidden": SFCN_CHANNELS if values["encoder"] == "sfcn" else ()}
            if values["encoder"] == "frozen":
                brought["components"] = 0
            return brought | values
        return values

    @model_validator(mode="after")
    def _fits_the_encoder(self) -> ModalityConfig:
        if self.encoder == "sfcn" and len(self.hidden) < 2:
            raise ValueError("the encoder sfcn needs at least two channels in hidden, or leave hidden out")
        if self.encoder not in ("mlp", "sfcn") and self.hidden:
            raise ValueError(
                f"the encoder {self.encoder} has one shape only: leave hidden out, or hidden = []"
            )
        if self.encoder == "frozen" and self.components:
            raise ValueError("the encoder frozen takes no components: leave them out, or components = 0")
        if self.encoder not in VOLUME_ENCODERS:
            if self.checkpointing:
                raise ValueError(f"checkpointing is for volumes, not for the encoder {self.encoder}")
            if self.decoder != "coarse":
                raise ValueError(f"the decoder volume is for volumes, not for the encoder {self.encoder}")
        return self


class ModelConfig(Section):
    """Codes, heads and the discriminators."""

    shared: int = Field(16, ge=1)
    """Width of a modality's shared code."""
    distinct: int = Field(16, ge=1)
    """Width of a modality's distinct code."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout in encoders and the age regressor."""
    regressor: Widths = (64,)
    """Hidden widths of the age regressor."""
    discriminator: Widths = (64, 64)
    """Hidden widths of each discriminator, and of the networks that tell the sexes apart."""
    linear_path: bool = True
    """A linear path, starting at zero, from each modality's components (of a volume: its coarse block
    means, whose overall level the group norms of a convolutional encoder take away) to the age."""
    sex: Literal[
        "none", "concat", "embed", "film", "heads", "concat+decoder", "adversarial", "multitask"
    ] = "concat"
    """What is done with the sex. `concat` joins it to the codes before the age regressor, `embed` joins a
    learned vector for it, `film` lets it scale and shift the regressor's hidden units, `heads` gives each
    sex an output of its own, `concat+decoder` joins it before the decoders as well. `adversarial` keeps the
    shared codes from telling the sex, `multitask` predicts it beside the age; both leave it out otherwise,
    as `none` does."""
    sex_width: int = Field(8, ge=1)
    """Width of the learned vector, with `sex = "embed"`."""
    prior_shared: Literal["adversarial", "kl", "both", "none"] = "adversarial"
    """What holds the shared codes to N(0, I)."""
    prior_distinct: Literal["kl", "adversarial", "both", "none"] = "kl"
    """What holds the distinct codes to N(0, I)."""
    sample: Literal["auto", "always", "never"] = "auto"
    """Whether training draws the codes with their own spread, or takes their means. `auto` draws a part
    that has a KL, and an adversarial one beside a part that has one."""
    missing: Literal["borrow", "poe"] = "borrow"
    """Shared code of a missing modality: `borrow` takes the other modality's; `poe` gives every modality
    the product of experts, the precision-weighted mean of the prior and of all modalities there are."""
    stretch_both: float = Field(1.0, gt=0)
    """How far a predicted age stands from the training mean, beside what the regressor says, for a scan
    with all modalities. A regressor learns from people whom it fits better than it predicts others; for
    those, what two modalities say together is too near the mean."""
    stretch_smri: float = Field(1.0, gt=0)
    """The same for a scan that has structural MRI only."""
    stretch_fmri: float = Field(1.0, gt=0)
    """The same for a scan that has functional MRI only."""


class LossConfig(Section):
    """Weights of the terms; a term of weight 0 is not computed."""

    age: float = Field(1.0, gt=0)
    reconstruction: float = Field(1.0, ge=0)
    cross: float = Field(1.0, ge=0)
    translation: float = Field(0.0, ge=0)
    """Of rebuilding a modality from the other's shared code alone, as an absent one is imputed."""
    kl: float = Field(1e-2, ge=0)
    kl_warmup: float = Field(0.1, ge=0, le=1)
    """Share of all steps over which the KL weight rises from 0."""
    free_bits: float = Field(0.0, ge=0)
    """Nats of a dimension below which its KL is not made smaller."""
    adversarial: float = Field(0.05, ge=0)
    ratio: float = Field(0.1, ge=0)
    ratio_kind: Literal["l2", "sq", "batch_sq", "log", "bounded"] = "sq"
    """Form of the shared-distinct distance ratio."""
    ratio_on: Literal["mu", "z"] = "mu"
    """Distances between code means, or between sampled codes."""
    sex: float = Field(0.1, ge=0)
    """With `model.sex` "adversarial" or "multitask"."""
    age_form: Literal["l1", "mse", "huber", "nll", "soft"] = "l1"
    """Absolute, squared or Huber error of the age; the likelihood of a normal distribution whose spread is
    predicted too; or soft labels over bins of age."""
    age_scale: Literal["years", "log"] = "years"
    """Regress age, or its logarithm (after adding one year)."""


class TrainingConfig(Section):
    """How the members are trained."""

    folds: int = Field(5, ge=2)
    """Cross-validation folds over people."""
    ensemble: int = Field(1, ge=1, le=100)
    """Members for each fold, which differ by their random draws only; their mean is the prediction."""
    epochs: int = Field(40, ge=1)
    batch_size: int = Field(64, ge=2)
    """Scans per step over all processes together."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1.0, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clipping: float = Field(0.0, ge=0)
    """Largest norm of a step's gradient; 0 leaves gradients as they are."""
    validation: float = Field(0.0, ge=0, lt=0.5)
    """Share of a fold's training people held back to choose the best epoch; 0 trains to the end."""
    patience: int = Field(10, ge=1)
    """Epochs without a better validation error before training stops early."""
    modality_training: Literal["subsets", "dropout", "none"] = "subsets"
    """How the age is learned for people who lack a modality: from every subset of the modalities in
    every step, from modalities dropped at random, or only as they come."""
    drop_smri: float = Field(0.1, ge=0, lt=1)
    """Chance that sMRI is dropped from a person who has both, with `modality_training = "dropout"`."""
    drop_fmri: float = Field(0.3, ge=0, lt=1)
    """Chance that fMRI is dropped from a person who has both, with `modality_training = "dropout"`."""
    sex_dropout: float = Field(0.05, ge=0, lt=1)
    """Chance that a person's sex is hidden in a step, so that an unknown sex can be scored."""
    controls: str = ""
    """Whose held-out predictions the model is calibrated on: a selection as in `--where`, such as
    "diagnosis == 'control'"; left out, everybody's. It changes no member."""
    mixup: float = Field(0.0, ge=0, le=0.5)
    """Largest share of another person, of the same sex and modalities, that is mixed into a scan and its
    age; 0 leaves scans as they are."""
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of what encoders and decoders compute in training, up to their last layers; with "bf16" volumes take
    half the memory. Weights, codes, ages and all terms of the loss are single precision in any case."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage."""
    accumulation: int = Field(1, ge=1)
    """Parts in which each process computes its scans of a step, to save memory; the step is the same."""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """How often a run is saved while a member is trained; a stop is saved in any case."""
    timeout_minutes: float = Field(10.0, gt=0)
    """How long the processes of a run wait for one another before they give up."""

    @property
    def members(self) -> int:
        """Members of a bundle: so many for each fold, those of a fold one after the other."""
        return self.folds * self.ensemble

    @model_validator(mode="after")
    def _nobody_loses_everything(self) -> TrainingConfig:
        if self.drop_smri + self.drop_fmri > 1:
            raise ValueError("drop_smri and drop_fmri together may be at most 1")
        return self


class RunConfig(Section):
    """Everything that decides what a training run computes."""

    smri: ModalityConfig = ModalityConfig()
    fmri: ModalityConfig = ModalityConfig(components=128)
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()

    def modality(self, role: str) -> ModalityConfig:
        return {"smri": self.smri, "fmri": self.fmri}[role]


def load_config(path: Path | None = None, settings: Sequence[str] = ()) -> RunConfig:
    """Read a run's settings from a TOML file, then apply `section.key=value` settings on top.

    Raises
    ------
    UsageError : the file is missing or no TOML, or a key or value is not known.
    """
    content: dict[str, Any] = {}
    if path is not None:
        content = read_toml(path)
    for setting in settings:
        _apply(content, setting)
    return parse_config(content, where=path)


def parse_config(content: dict[str, Any], where: object = None) -> RunConfig:
    """Check the settings in `content`; `where` names their source in an error."""
    return parse(RunConfig, content, where)


def changed(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The same settings but for some, by `section.key`.

    Raises
    ------
    UsageError : a key is not known, or a value is not of its kind.
    """
    content = config.model_dump()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        content.setdefault(section, {})[name] = value
    return parse_config(content)


def parse(kind: type[Settings], content: dict[str, Any], where: object = None) -> Settings:
    """Check `content` as settings of a `kind`; `where` names their source in an error.

    Raises
    ------
    UsageError : a key is not known (the nearest known one is named), or a value is not of its kind.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        raise _readable(kind, problem, where) from None


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise UsageError(
            "the configuration file is not there",
            where=path,
            hint=nearest(path.name, siblings) if siblings else None,
        ) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise UsageError(f"not readable as TOML ({problem})", where=path) from None


def to_toml(config: RunConfig) -> str:
    """The resolved settings as TOML; `parse_config` of it gives the same settings."""
    lines: list[str] = []
    for section, values in config.model_dump().items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON text is a TOML text, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)


def _apply(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    section, _, name = key.strip().partition(".")
    if not equals or not section or not name:
        raise UsageError(
            "a setting is not understood", where=f"--set {setting}", expected="--set section.key=value"
        )
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = _literal(text.strip())
    values = content.setdefault(section, {})
    if not isinstance(values, dict):
        raise UsageError(f"{section} is a section, not {values!r}", expected=f"[{section}] in the file")
    values[name] = value


def _literal(text: str) -> Any:
    """A value as a shell user writes it: `None`-free Python literals, or plain text without quotes."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested without end
        return text


def _readable(kind: type[Section], problem: ValidationError, where: object) -> UsageError:
    first = problem.errors()[0]
    path = [str(part) for part in first["loc"]]
    setting = ".".join(path)
    place = f"{setting} in {where}" if where else setting
    if first["type"] == "extra_forbidden":
        return UsageError(
            "unknown setting", where=place, hint=nearest(path[-1], _known_keys(kind, path[:-1]))
        )
    if first["type"] == "value_error":  # said by us, of several settings together
        return UsageError(str(first["ctx"]["error"]), where=place)
    expected = first["msg"].lower().replace("a valid tuple", "a list in square brackets")
    return UsageError(f"{expected}, not {reprlib.repr(first['input'])}", where=place)


def _known_keys(kind: type[Section], path: list[str]) -> list[str]:
    section: Any = kind
    for part in path:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
