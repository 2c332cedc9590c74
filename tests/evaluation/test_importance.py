"""Importances: what integrated gradients must add up to, and planted signal that must come out on top."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_members import fresh_members, planted_data, quick, trained_members

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.conversion.convert import convert
from hpc_brainage.evaluation.attribution import attribute
from hpc_brainage.evaluation.importance import Importance, importance, places_of
from hpc_brainage.modality import Modality
from hpc_brainage.model.attribution import TOLERANCE
from hpc_brainage.model.member import Member
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import FeatureInput, TrainingData, load_training_data
from hpc_brainage.training.prediction import predict_rows
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import run_training


def features_of(data: TrainingData, role: str) -> FeatureInput:
    source = data.inputs[role]
    assert isinstance(source, FeatureInput)
    return source


def with_features(data: TrainingData, role: str, x: np.ndarray) -> TrainingData:
    changed = replace(features_of(data, role), x_NF=x.astype(np.float32))
    return replace(data, inputs={**data.inputs, role: changed})


# -- integrated gradients --------------------------------------------------------------------------


def linear_only(member: Member, seed: int) -> None:
    """Leave the age to the linear paths, with weights of their own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        member.network.regressor.out.weight.zero_()
        member.network.regressor.out.bias.zero_()
        for path in member.network.linear_paths.values():
            path.weight.normal_()


@pytest.mark.parametrize("scale", ["years", "log"])
@pytest.mark.parametrize("components", [0, 6])
def test_a_linear_member_has_the_attributions_of_its_closed_form(
    scale: str, components: int, tmp_path: Path
) -> None:
    config = quick(
        f"loss.age_scale={scale}", f"smri.components={components}", f"fmri.components={components}"
    )
    data = planted_data(tmp_path, config, people=45)
    members, fold = fresh_members(data, config)
    for member in members:
        linear_only(member, 3)
    found = attribute(members, data, fold)
    for index, member in enumerate(members):
        rows = np.flatnonzero(fold == index)
        scaled = member.age_scale
        raw = {}
        for role in member.roles:
            front_end, source = member.front_ends[role], features_of(data, role)
            z = (source.x_NF[rows] - front_end.mean_F.numpy()) / front_end.sd_F.numpy()
            weight = member.network.linear_paths[role].weight.detach().numpy()[0]
            loading = front_end.basis_FP.numpy() @ weight if components else weight
            here = source.present[rows, None]
            raw[role] = np.where(here, np.clip(z, -5, 5) * loading, 0) / float(front_end.scale)
        # On the scale of the regression the age is linear; years are shared out in the same proportion.
        step = sum(each.sum(axis=1) for each in raw.values()) * scaled.spread
        share = scaled.spread * (found.age - found.baseline)[rows] / step
        if scale == "years":
            np.testing.assert_allclose(share, scaled.spread, rtol=1e-3)
        for role in member.roles:
            np.testing.assert_allclose(
                found.years[role][rows], raw[role] * share[:, None], atol=2e-3, rtol=2e-3
            )


def test_attributions_add_up_to_the_prediction_minus_that_of_the_baseline() -> None:
    members, data, fold = trained_members()
    found = attribute(members, data, fold)
    total = sum(years.sum(axis=1, dtype=float) for years in found.years.values())
    assert np.abs(total - (found.age - found.baseline)).max() < 2 * TOLERANCE
    assert np.abs(found.missed).max() <= TOLERANCE
    for index, member in enumerate(members):
        rows = np.flatnonzero(fold == index)
        np.testing.assert_allclose(found.age[rows], predict_rows(member, data, rows)["age"], atol=1e-4)


def test_somebody_who_is_average_in_everything_is_the_baseline(tmp_path: Path) -> None:
    config = quick()
    data = planted_data(tmp_path, config, people=45)
    members, fold = fresh_members(data, config)
    row = int(np.flatnonzero(features_of(data, "smri").present & features_of(data, "fmri").present)[0])
    for role in ("smri", "fmri"):
        x = features_of(data, role).x_NF.copy()
        x[row] = members[fold[row]].front_ends[role].mean_F.numpy()
        data = with_features(data, role, x)
    found = attribute(members, data, fold)
    assert found.age[row] == pytest.approx(found.baseline[row], abs=1e-3)
    assert max(np.abs(years[row]).max() for years in found.years.values()) < 1e-4


def test_an_imputed_feature_and_an_absent_modality_get_no_credit() -> None:
    members, data, fold = trained_members()
    x = features_of(data, "smri").x_NF.copy()
    x[10:20, 3] = np.nan
    found = attribute(members, with_features(data, "smri", x), fold)
    assert (found.years["smri"][10:20, 3] == 0).all()
    assert (found.years["smri"][20:, 3] != 0).all()
    assert (found.years["fmri"][~features_of(data, "fmri").present] == 0).all()
    total = sum(years.sum(axis=1, dtype=float) for years in found.years.values())
    assert np.abs(total - (found.age - found.baseline)).max() < 2 * TOLERANCE


def test_an_unknown_sex_is_explained_as_it_is_predicted() -> None:
    members, data, fold = trained_members()
    unknown = replace(data, scans=data.scans.assign(sex="U"))
    found = attribute(members, unknown, fold)
    for index, member in enumerate(members):
        rows = np.flatnonzero(fold == index)
        np.testing.assert_allclose(found.age[rows], predict_rows(member, unknown, rows)["age"], atol=1e-4)
    assert np.abs(found.missed).max() <= TOLERANCE


def test_whoever_was_held_out_by_nobody_or_has_nothing_has_no_attribution(tmp_path: Path) -> None:
    config = quick()
    data = planted_data(tmp_path, config, people=45)
    members, fold = fresh_members(data, config)
    fold[:5] = -1
    x = features_of(data, "smri").x_NF.copy()
    x[-1] = np.nan  # the last ones lack fMRI, too
    found = attribute(members, with_features(data, "smri", x), fold)
    assert not found.judged[:5].any()
    assert not found.judged[-1]
    assert found.judged[5:-1].all()
    assert (found.years["smri"][[0, -1]] == 0).all()


def test_a_volume_has_a_map_that_adds_up(tmp_path: Path) -> None:
    config = quick(
        'smri.tables=["vbm"]',
        "smri.encoder=sfcn",
        "smri.hidden=[4,8]",
        "fmri.use=false",
        "training.folds=2",
    )
    data = planted_data(tmp_path, config, people=24, volumes=True)
    members, fold = fresh_members(data, config)
    for member in members:
        with torch.no_grad():
            member.network.linear_paths["smri"].weight.normal_()
    found = attribute(members, data, fold)
    signed, absolute = found.maps["smri"]
    assert signed.shape == absolute.shape == (12, 14, 12)
    assert signed.sum() == pytest.approx(float((found.age - found.baseline).mean()), abs=TOLERANCE)
    assert (absolute >= np.abs(signed) - 1e-9).all()
    assert importance(members, data, fold, draws=5).maps["smri"][0] is not None


# -- tables ----------------------------------------------------------------------------------------

DRIVEN = ("lh_insula_thickness", "rh_insula_thickness", "Left-Hippocampus")
HUB = "Precuneus"


def known_cohort(people: int = 160) -> Cohort:
    """Age moves three of 24 structural measures and the edges of one of eight regions; nothing else."""
    draw = np.random.default_rng(4)
    age = draw.uniform(10, 80, people)
    latent = (age - 45) / 20
    regions = ["cuneus", "fusiform", "insula", "lingual", "precuneus"]
    smri = [f"{side}_{r}_{m}" for m in ("thickness", "area") for side in ("lh", "rh") for r in regions]
    smri += ["Left-Hippocampus", "Right-Hippocampus", "Left-Amygdala", "Right-Amygdala"]
    labels = [HUB, "Cuneus", "Insula", "Fusiform", "Angular", "Putamen", "Caudate", "Pallidum"]
    edges = [f"{a}--{b}" for i, a in enumerate(labels) for b in labels[i + 1 :]]
    sources = {}
    for role, names in (("smri", smri), ("fmri", edges)):
        x = draw.normal(size=(people, len(names)))
        for column, name in enumerate(names):
            if name in DRIVEN:
                x[:, column] += -2.0 * latent
            if HUB in name.split("--"):
                x[:, column] += 1.0 * latent
        values = (100 + 10 * x).astype(np.float32)
        modality = Modality(role, "t", "features", (len(names),), tuple(names), ("",) * len(names))  # type: ignore[arg-type]
        sources[modality.key] = ModalitySource(
            modality, np.ones(people, dtype=bool), lambda row, values=values: values[row]
        )
    scans = pd.DataFrame(
        {
            "participant_id": [f"{i:04d}" for i in range(people)],
            "session_id": "",
            "run": "",
            "age": age,
            "sex": np.where(draw.random(people) < 0.5, "F", "M"),
            "site": "one",
            "split": "",
            "diagnosis": "",
        }
    )
    return Cohort("known", scans, sources, recipe={"reader": "known"})


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Importance, TrainingData]:
    folder = tmp_path_factory.mktemp("known")
    config = quick("smri.components=0", "fmri.components=0", "training.epochs=20")
    store = convert(known_cohort(), folder / "known.zarr").store_path
    run = run_training(RunFolder.prepare(folder / "run", config, store, None).path)
    assert run is not None
    data = load_training_data(Store.open(store), config)
    return importance(run.members, data, run.fold, draws=100), data


def of_role(table: pd.DataFrame, role: str) -> pd.DataFrame:
    return table[table["role"] == role]


def test_the_features_that_age_drives_come_out_on_top(known: tuple[Importance, TrainingData]) -> None:
    features = of_role(known[0].features, "smri")
    assert set(features["feature"][:3]) == set(DRIVEN)
    driven, rest = features[:3], features[3:]
    assert driven["low"].min() > rest["high"].max()
    # They shrink with age: more of them means younger.
    assert (driven["years_per_sd"] < 0).all()


def test_the_edges_of_the_region_that_ages_come_out_on_top(known: tuple[Importance, TrainingData]) -> None:
    found, _ = known
    edges, regions = of_role(found.features, "fmri"), of_role(found.regions, "fmri")
    assert all(HUB in feature for feature in edges["feature"][:5])
    assert regions["region"].iloc[0] == HUB
    assert regions["low"].iloc[0] > regions["high"].iloc[1]
    assert (regions["features"] == 7).all()


def test_regions_share_out_all_that_their_features_add(known: tuple[Importance, TrainingData]) -> None:
    found, _ = known
    for role in ("smri", "fmri"):
        total = of_role(found.features, role)["mean"].sum()
        assert of_role(found.regions, role)["mean"].sum() == pytest.approx(total, abs=1e-4)
        assert of_role(found.roles, role)["mean"].sum() == pytest.approx(total, abs=1e-4)
    smri = of_role(found.regions, "smri").set_index("region")
    assert smri.loc["lh_insula", "features"] == 2
    assert smri.loc["Left-Hippocampus", "features"] == 1
    assert found.networks.empty


def test_intervals_hold_the_value_and_members_agree(known: tuple[Importance, TrainingData]) -> None:
    found, data = known
    for table in (found.features, found.regions, found.roles):
        assert (table["low"] <= table["mean_abs"]).all()
        assert (table["mean_abs"] <= table["high"]).all()
    agreement = found.stability.set_index(["role", "level"])
    assert (agreement["folds"] == 3).all()
    assert agreement.loc[("fmri", "regions"), "mean"] > 0.3
    assert (agreement["lowest"] <= agreement["mean"]).all()
    assert found.largest_miss <= TOLERANCE
    assert found.roles["n"].tolist() == [len(data.scans)] * 2
    assert "lh_insula" in found.markdown(top=3)


def test_several_members_of_a_fold_are_asked_for_their_mean() -> None:
    """Attributions of a mean are the mean of attributions, and add up as they do."""
    members, data, fold = trained_members()
    pairs = [one for k in range(3) for one in (members[k], members[(k + 1) % 3])]
    found = attribute(pairs, data, fold, ensemble=2)
    once, again = attribute(members, data, fold), attribute([*members[1:], members[0]], data, fold)
    np.testing.assert_allclose(found.age, (once.age + again.age) / 2, rtol=1e-6)
    for role, years in found.years.items():
        np.testing.assert_allclose(years, (once.years[role] + again.years[role]) / 2, atol=1e-5)
    added = sum(years.sum(axis=1) for years in found.years.values())
    np.testing.assert_allclose(added, found.age - found.baseline, atol=TOLERANCE)


def test_a_modality_is_averaged_over_the_people_who_have_it() -> None:
    members, data, fold = trained_members()
    found, raw = importance(members, data, fold, draws=5), attribute(members, data, fold)
    features = found.features.set_index("feature")
    for role in ("smri", "fmri"):
        here = features_of(data, role).present
        assert (~here).any()
        (row,) = found.roles[found.roles["role"] == role].itertuples()
        assert row.n == here.sum()
        assert row.mean_abs == pytest.approx(np.abs(raw.years[role][here].sum(axis=1)).mean(), rel=1e-5)
        for column, name in enumerate(raw.names[role]):
            years, z = raw.years[role][here, column], raw.standardised[role][here, column]
            assert features.loc[name, "mean_abs"] == pytest.approx(np.abs(years).mean(), rel=1e-5)
            slope = np.linalg.lstsq(z[:, None], years, rcond=None)[0][0]
            assert features.loc[name, "years_per_sd"] == pytest.approx(slope, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "regions", "measure"),
    [
        ("lh_bankssts_thickness", ("lh_bankssts",), "thickness"),
        ("lh_G_and_S_paracentral_area", ("lh_G_and_S_paracentral",), "area"),
        ("rh-insula_average_thickness_mm", ("rh_insula",), "thickness"),
        ("lh_insula_thicknessstd", ("lh_insula",), "thicknessstd"),
        ("aparc:lh_insula_volume", ("lh_insula",), "volume"),
        ("Left-Hippocampus", ("Left-Hippocampus",), ""),
        ("lHip_GM_Vol", ("lHip",), "GM"),
        ("rHip_CSF_Vol", ("rHip",), "CSF"),
        ("17--210", ("17", "210"), "edge"),
        ("partial:Insula--Caudate", ("Insula", "Caudate"), "edge"),
        ("smri region 7", ("smri region 7",), ""),
    ],
)
def test_a_name_says_where_and_what(name: str, regions: tuple[str, ...], measure: str) -> None:
    (place,) = places_of([name], tables=["aparc"])
    assert (place.regions, place.measure) == (regions, measure)


def test_pairs_are_edges_only_if_they_are_a_whole_connectome() -> None:
    labels = ["VisualA", "VisualB", "Limbic", "Control"]
    whole = [f"{a}_{b}" for i, a in enumerate(labels) for b in labels[i + 1 :]]
    assert places_of(whole)[0].regions == ("VisualA", "VisualB")
    assert places_of(["VisualA_VisualB", "mean_FD"])[0].regions == ("VisualA_VisualB",)


def test_edges_of_regions_that_name_their_network_are_summed_by_pairs_of_networks(tmp_path: Path) -> None:
    config = quick("smri.use=false", "fmri.components=0")
    data = planted_data(tmp_path, config, people=40)
    labels = [
        f"7Networks_{side}_{net}_{i}" for side in ("LH", "RH") for net in ("Vis", "Cont") for i in (1, 2)
    ]
    edges = [f"{a}--{b}" for i, a in enumerate(labels) for b in labels[i + 1 :]][:20]
    named = replace(features_of(data, "fmri"), names=tuple(edges))
    data = replace(data, inputs={"fmri": named})
    members, fold = fresh_members(data, config)
    found = importance(members, data, fold, draws=5)
    assert set(found.networks["region"]) == {"Vis -- Vis", "Cont -- Vis", "Cont -- Cont"}
    assert found.networks["features"].sum() == 20
    assert found.networks["mean"].sum() == pytest.approx(found.features["mean"].sum(), abs=1e-5)


@pytest.mark.real
def test_every_measure_of_a_real_table_finds_its_region(real_data: Path) -> None:
    names = pd.read_csv(real_data / "abide1" / "smri_freesurfer6.csv.gz", nrows=1).columns[1:].tolist()
    places = pd.DataFrame(
        [
            (name, place.regions[0], place.measure)
            for name, place in zip(names, places_of(names), strict=True)
        ],
        columns=["name", "region", "measure"],
    )
    cortical = places[places["measure"] != ""]
    assert set(cortical["measure"]) == {"area", "thickness", "volume"}
    whole = cortical.groupby("region").size()
    assert (whole[whole == 3].index.str.slice(3).nunique()) == 74 + 34  # Destrieux and Desikan
    assert set(whole[whole < 3].index.str.slice(3)) <= {"WhiteSurfArea", "MeanThickness"}
    rest = places[places["measure"] == ""]
    assert {"Left-Hippocampus", "Right-Pallidum", "Brain-Stem"} <= set(rest["region"])
    assert rest["region"].is_unique
