"""OpenBHB's arrays: their files, shapes, channels and region names.

OpenBHB (Dufumier et al. 2022, NeuroImage 263:119637) describes its arrays in `resource/resources.json`;
what stands here is the same description for a download that lacks that file. The region names are
those of the atlases: Neuromorphometrics as CAT12 abbreviates it, Desikan-Killiany and Destrieux as
FreeSurfer spells them. The features of a cohort have the names that FreeSurfer's and CAT12's own tables
give them (see `region_names`), so that a model of OpenBHB meets other cohorts, too.

The numbers of an ROI table are channel-major: all regions of the first channel, then all regions of
the second, and so on; within a FreeSurfer channel the left hemisphere comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from hpc_brainage.cohorts.region_names import DESIKAN, DESTRIEUX, region_names
from hpc_brainage.modality import Kind, Modality

# The order of the seven numbers that FreeSurfer's cortical statistics give for a region.
FREESURFER_CHANNELS = (
    "surface_area_mm^2",
    "gray_matter_volume_mm^3",
    "average_thickness_mm",
    "thickness_stddev_mm",
    "integrated_rectified_mean_curvature_mm^-1",
    "integrated_rectified_gaussian_curvature_mm^-2",
    "intrinsic_curvature_index",
)

XHEMI_CHANNELS = tuple(
    f"{side}.{measure}"
    for side, measure in product(("lh", "rh"), ("aparc.annot", "curv", "sulc", "thickness"))
)

_NEUROMORPHOMETRICS = """
    3thVen 4thVen Acc Amy Bst Cau ExtCbe CbeWM CbrWM CSF Hip InfLatVen LatVen Pal Put ThaPro VenVen OC
    CbeLoCbe1-5 CbeLoCbe6-7 CbeLoCbe8-10 BasCbr+FobBr AntCinGy AntIns AntOrbGy AngGy Cal+Cbr CenOpe Cun
    Ent FroOpe FroPo FusGy RecGy InfOccGy InfTemGy LinGy LatOrbGy MidCinGy MedFroCbr MidFroGy MidOccGy
    MedOrbGy MedPoCGy MedPrcGy SupMedFroGy MidTemGy OccPo OccFusGy InfFroGy InfFroOrbGy PosCinGy PCu
    ParHipGy PosIns ParOpe PoCGy PosOrbGy Pla PrcGy Tem SCA SupFroGy Cbr+Mot SupMarGy SupOccGy SupParLo
    SupTemGy TemPo InfFroAngGy TemTraGy
"""


def _both_sides(regions: tuple[str, ...]) -> tuple[str, ...]:
    """Regions of the left hemisphere, then of the right, as FreeSurfer's tables go."""
    return tuple(f"{side}-{region}" for side in ("lh", "rh") for region in regions)


# CAT12 alternates the sides instead, and gives grey matter of all regions, then fluid of all regions.
VBM_REGIONS = tuple(
    f"{side}{region}_{tissue}_Vol"
    for tissue in ("GM", "CSF")
    for region in _NEUROMORPHOMETRICS.split()
    for side in ("l", "r")
)
DESIKAN_REGIONS = _both_sides(DESIKAN)
DESTRIEUX_REGIONS = _both_sides(DESTRIEUX)


@dataclass(frozen=True)
class OpenBHBArray:
    """One of OpenBHB's six arrays.

    Parameters
    ----------
    resource : what `resources.json` calls it.
    name : of the modality in a cohort; the role is "smri".
    kind : "features", "volume" or "surface".
    shape : of one scan, without the leading axes of length 1 that its `.npy` files have.
    regions : names along the last axis, for an ROI table.
    channels : names along the first of two axes.
    file_suffix : end of the per-scan file after `sub-<id>_preproc-`.
    table : file of the ROI table, "" where there is none.
    template : file in `resource/` whose affine the volume shares, "" where there is none.
    """

    resource: str
    name: str
    kind: Kind
    shape: tuple[int, ...]
    regions: tuple[str, ...]
    channels: tuple[str, ...]
    file_suffix: str
    table: str = ""
    template: str = ""


ARRAYS = (
    OpenBHBArray(
        resource="vbm_roi",
        name="vbm_roi",
        kind="features",
        shape=(284,),
        regions=VBM_REGIONS,
        channels=("GM",),  # so in resources.json, although the second half is fluid
        file_suffix="cat12vbm_desc-gm_ROI.npy",
        table="cat12vbm_roi_features.csv",
    ),
    OpenBHBArray(
        resource="desikan_roi",
        name="desikan_roi",
        kind="features",
        shape=(7, 68),
        regions=DESIKAN_REGIONS,
        channels=FREESURFER_CHANNELS,
        file_suffix="freesurfer_desc-desikan_ROI.npy",
        table="desikan_roi_features.csv",
    ),
    OpenBHBArray(
        resource="destrieux_roi",
        name="destrieux_roi",
        kind="features",
        shape=(7, 148),
        regions=DESTRIEUX_REGIONS,
        channels=FREESURFER_CHANNELS,
        file_suffix="freesurfer_desc-destrieux_ROI.npy",
        table="destrieux_roi_features.csv",
    ),
    OpenBHBArray(
        resource="vbm",
        name="cat12vbm",
        kind="volume",
        shape=(121, 145, 121),
        regions=(),
        channels=("GM",),
        file_suffix="cat12vbm_desc-gm_T1w.npy",
        template="cat12vbm_space-MNI152_desc-gm_TPM.nii.gz",
    ),
    OpenBHBArray(
        resource="quasiraw",
        name="quasiraw",
        kind="volume",
        shape=(182, 218, 182),
        regions=(),
        channels=("T1w",),
        file_suffix="quasiraw_T1w.npy",
        template="quasiraw_space-MNI152_desc-brain_T1w.nii.gz",
    ),
    OpenBHBArray(
        resource="xhemi",
        name="xhemi",
        kind="surface",
        shape=(8, 163_842),
        regions=(),
        channels=XHEMI_CHANNELS,
        file_suffix="freesurfer_desc-xhemi_T1w.npy",
    ),
)


def roi_feature_names(regions: tuple[str, ...], channels: tuple[str, ...]) -> tuple[str, ...]:
    """Names of a flattened ROI table in its channel-major order.

    Region and channel are OpenBHB's: `lh-bankssts` and `average_thickness_mm` make the feature
    `lh_bankssts_thickness`. Where there is one channel only, a feature has the region's own name.
    """
    if len(channels) == 1:
        return regions
    spelled = [f"{region}_{channel}" for channel in channels for region in regions]
    return region_names(spelled)[0]


def channel_unit(channel: str) -> str:
    """The unit at the end of a channel's name ("mm2" of "surface_area_mm^2"), "" if it has none."""
    end = channel.rpartition("_")[2]
    return end.replace("^", "") if end == "mm" or end.startswith("mm^") else ""


def roi_feature_units(regions: tuple[str, ...], channels: tuple[str, ...]) -> tuple[str, ...]:
    """Units of the same features. OpenBHB does not state the unit of CAT12's volumes: "" there."""
    return tuple(channel_unit(channel) for channel in channels for _ in regions)


def array_modality(array: OpenBHBArray, affine: tuple[tuple[float, ...], ...] | None = None) -> Modality:
    """The modality that an array is in a cohort; `affine` is that of a volume, where it is known."""
    if array.kind == "volume":
        return Modality("smri", array.name, "volume", array.shape, (), ("",), affine)
    if array.kind == "surface":
        units = tuple("mm" if name.endswith("thickness") else "" for name in array.channels)
        return Modality("smri", array.name, "surface", array.shape, array.channels, units)
    names = roi_feature_names(array.regions, array.channels)
    units = roi_feature_units(array.regions, array.channels)
    return Modality("smri", array.name, "features", (len(names),), names, units)
