"""The documents say what the code does: names, defaults, the example without our code, and equations.

A name in a document that the code does not have, or the other way round, fails here. The last tests hold
those equations of docs/method.md that belong to several modules and to no other test.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from hpc_brainage.config import ModelConfig, RunConfig, load_config
from hpc_brainage.model.age_scale import AgeScale
from hpc_brainage.model.bundle import BiasLine, ModelInfo, TrainingPeople, save_bundle
from hpc_brainage.model.calibration import Calibration
from hpc_brainage.model.evidence import Comparison, Evidence, PairedDifference, Performance
from hpc_brainage.model.front_end import fit_front_end
from hpc_brainage.model.member import Member
from hpc_brainage.model.noise import Draws, Stream
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.scoring.flags import FLAGS
from hpc_brainage.scoring.table import SCHEMA
from hpc_brainage.training.objective import Batch, Objective

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
WITH_REFERENCES = ["method.md", *(f"decisions/{p.name}" for p in sorted((DOCS / "decisions").glob("*.md")))]


def document(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_cells(text: str) -> set[str]:
    """Names in code font in the first column of a text's tables."""
    cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    body = text.partition(f"# {heading}\n")[2]
    assert body, f"no section {heading!r}"
    return re.split(r"^#+ ", body, maxsplit=1, flags=re.MULTILINE)[0]


def test_the_score_table_s_document_has_every_column_and_no_other() -> None:
    assert first_cells(section(document("score-table.md"), "Columns")) == set(SCHEMA)


def test_the_score_table_s_document_has_every_flag_and_no_other() -> None:
    assert first_cells(section(document("score-table.md"), "Flags")) == set(FLAGS)


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("`model.json`", ModelInfo),
        ("`training`", TrainingPeople),
        ("`evidence`", Evidence),
        ("`bias`", BiasLine),
        ("`calibration`", Calibration),
    ],
)
def test_the_bundle_s_document_has_every_field_and_no_other(heading: str, record: type[BaseModel]) -> None:
    text = section(document("model-bundle.md"), heading)
    assert first_cells(text) == set(record.model_fields)
    if record is Evidence:
        inner = {*Comparison.model_fields, *Performance.model_fields, *PairedDifference.model_fields}
        assert all(f"`{name}`" in text for name in inner)


def definitions(path: Path) -> set[str]:
    """Functions, classes and `Class.method`s of a source file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return found


@pytest.mark.parametrize("name", WITH_REFERENCES)
def test_every_function_and_test_that_a_document_names_exists(name: str) -> None:
    references = re.findall(r"`([\w/]+\.py): ([\w.]+)`", document(name))
    for file, function in references:
        root = REPOSITORY if file.startswith("tests/") else REPOSITORY / "hpc_brainage"
        assert function in definitions(root / file), f"{file}: {function}"
    assert len(references) > 30 or name != "method.md"


@pytest.mark.parametrize("name", ["method.md", "model-bundle.md", "score-table.md", *WITH_REFERENCES[1:]])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", document(name)):
        path = (DOCS / name).parent / target if target else DOCS / name
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{target}#{anchor}"


def test_the_defaults_in_the_method_s_document_are_those_of_the_settings() -> None:
    table = section(document("method.md"), "8. The sum")
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([^|]+) \|", table, flags=re.MULTILINE)
    defaults = RunConfig().model_dump()
    for group, name, value in rows:
        expected = defaults[group][name]
        shown = value if not isinstance(expected, str) else value.strip('"')
        assert shown == (str(expected).lower() if isinstance(expected, bool) else str(expected)), name
    documented = {name for group, name, _ in rows if group == "loss"}
    assert documented == set(defaults["loss"])


# -- the example without our code -----------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ("loss.age_scale=log",),
        ("model.stretch_both=1.3", "model.stretch_smri=0.7", "model.stretch_fmri=1.1"),
        ("model.sex=none", "model.linear_path=false", "smri.components=0", "model.regressor=[9,5]"),
    ],
)
def test_the_example_without_our_code_gives_our_ages(settings: tuple[str, ...], tmp_path: Path) -> None:
    config = load_config(None, ["smri.components=6", "smri.hidden=[12,8]", "fmri.hidden=[7]", *settings])
    draw = np.random.default_rng(0)
    tables = {"smri": draw.normal(50, 9, (40, 11)), "fmri": draw.normal(0, 0.3, (40, 8))}
    front_ends = {
        role: fit_front_end(
            x,
            [f"{role} {i}" for i in range(x.shape[1])],
            components=min(config.modality(role).components, 5),
            clip_sd=2.0,
            max_missing=0.2,
        )
        for role, x in tables.items()
    }
    torch.manual_seed(0)
    age_scale = AgeScale.fit(torch.linspace(10, 80, 40), config.loss.age_scale)
    member = Member(front_ends, age_scale, config).eval()
    for path in member.network.linear_paths.values():
        torch.nn.init.normal_(path.weight, std=0.1)
    people = TrainingPeople(
        people=40, scans=40, age_min=10, age_max=80, age_mean=45, age_sd=20, sexes={}, sites={},
        with_modality={}, where=None, store="s", store_sha256="",
    )  # fmt: skip
    info = ModelInfo(
        name="m", config=config, members=(member.describe(),), volumes={}, training=people, salt="",
        features={role: member.features(role) for role in tables}, seen={}, software={},
        tables={}, units={},
    )  # fmt: skip
    save_bundle(tmp_path / "model", info, [member])
    example = re.findall(r"```python\n(.*?)```", document("model-bundle.md"), flags=re.DOTALL)[1]
    namespace: dict = {}
    exec(example, namespace)
    for has, sex in ((("smri", "fmri"), "F"), (("smri",), "M"), (("fmri",), "F")):
        scan = {role: tables[role][0].astype(np.float32) for role in tables}
        scan["smri"][3] = np.nan
        found = namespace["brain_age"](
            tmp_path / "model",
            0,
            {role: dict(zip(member.features(role), scan[role].tolist(), strict=True)) for role in has},
            sex,
        )
        expected = member.predict(
            {role: torch.from_numpy(scan[role])[None] for role in tables},
            {role: torch.tensor([role in has]) for role in tables},
            torch.tensor(["FM".index(sex)]),
        )
        assert found == pytest.approx(float(expected.age), rel=1e-5)


# -- equations ------------------------------------------------------------------------------------

B, BRANCHES = (
    12,
    {"smri": BranchSpec("mlp", (6,), components=5), "fmri": BranchSpec("mlp", (6,), components=4)},
)


def batch(progress: float = 0.5) -> Batch:
    torch.manual_seed(1)
    x = {role: torch.randn(B, spec.components) for role, spec in BRANCHES.items()}
    present = {"smri": torch.arange(B) < 9, "fmri": torch.arange(B) > 4}
    counts = {"smri": 9, "fmri": 7, "pair": 4, "scans": B}
    return Batch(x, present, torch.arange(B) % 2, torch.randn(B), torch.arange(B), counts, 5, 3, progress)


def objective(*settings: str) -> Objective:
    torch.manual_seed(0)
    config = load_config(None, ["model.dropout=0.0", "training.sex_dropout=0.0", *settings])
    return Objective(SAAVAE(BRANCHES, config.model), config)


def test_a_code_is_its_mean_plus_its_spread_times_the_noise() -> None:
    torch.manual_seed(0)
    model, given = SAAVAE(BRANCHES, ModelConfig(shared=3, distinct=2, dropout=0.0)), batch()
    with torch.no_grad():
        model.encoders["fmri"].log_variance.weight.mul_(100)
    draws = Draws(given.scan, given.seed, given.step)
    noise = {"smri": draws.normal(5, Stream.CODE), "fmri": draws.normal(5, Stream.CODE + 1)}
    for role, code in model.encode(given.x, given.present, draws).items():
        here = given.present[role]
        expected = code.mu + torch.exp(code.log_variance / 2) * noise[role].float()
        torch.testing.assert_close(code.z[here], expected[here])
        assert torch.equal(code.z[~here], torch.zeros_like(code.z[~here]))
        assert torch.equal(torch.cat([code.shared, code.distinct], dim=1), code.z)
        assert code.log_variance.abs().max() <= 8
    assert code.log_variance.abs().max() == 8, "the bound was reached, so it was tested"


@pytest.mark.parametrize(("progress", "warm"), [(0.05, 0.5), (0.7, 1.0)])
def test_the_loss_is_the_weighted_sum_of_its_terms(progress: float, warm: float) -> None:
    loss, terms = objective()(batch(progress))
    expected = (
        1.0 * terms["age"]
        + 1.0 * terms["reconstruction"]
        + 1.0 * terms["cross"]
        + 0.01 * warm * terms["kl"]
        + 0.1 * terms["ratio"]
        + terms["discriminator"]
    )
    torch.testing.assert_close(loss, expected)
    assert all(float(term) > 0 for term in terms.values())


def test_a_term_of_weight_zero_is_not_computed() -> None:
    names = {"reconstruction", "cross", "kl", "ratio", "adversarial"}
    _, terms = objective(*(f"loss.{name}=0" for name in sorted(names)))(batch())
    assert set(terms) == {"age"}


def test_the_age_is_learned_from_every_subset_of_the_modalities() -> None:
    whole, given = objective(), batch()
    _, terms = whole(given)
    codes = whole.model.encode(given.x, given.present, Draws(given.scan, given.seed, given.step))
    errors = []
    for roles in (("smri", "fmri"), ("smri",), ("fmri",)):
        seen = {role: given.present[role] & (role in roles) for role in BRANCHES}
        has_all = torch.stack([given.present[role] for role in roles]).all(dim=0)
        age = whole.model.regress(codes, given.x, seen, given.sex).mean
        errors.append((age - given.age).abs()[has_all].mean())
    torch.testing.assert_close(terms["age"], torch.stack(errors).mean().detach())


@pytest.mark.parametrize(("kind", "f"), [("years", lambda y: y), ("log", torch.log1p)])
def test_the_age_scale_is_standardised_and_goes_back(kind: str, f: object) -> None:
    age = torch.tensor([6.0, 19.5, 33.0, 61.0, 88.0], dtype=torch.float64)
    scale = AgeScale.fit(age, kind)  # type: ignore[arg-type]
    t = scale.to_scale(age)
    assert float(t.mean()) == pytest.approx(0, abs=1e-12)
    assert float(t.std(correction=0)) == pytest.approx(1)
    torch.testing.assert_close(t * scale.spread + scale.center, f(age))  # type: ignore[operator]
    torch.testing.assert_close(scale.to_years(t), age)
