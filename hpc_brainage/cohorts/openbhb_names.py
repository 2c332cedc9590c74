"""OpenBHB's arrays: their files, shapes, channels and region names.

OpenBHB (Dufumier et al. 2022, NeuroImage 263:119637) describes its arrays in `resource/resources.json`;
what stands here is the same description for a download that lacks that file. The region names are
those of the atlases: Neuromorphometrics as CAT12 abbreviates it, Desikan-Killiany and Destrieux as
FreeSurfer spells them.

The numbers of an ROI table are channel-major: all regions of the first channel, then all regions of
the second, and so on; within a FreeSurfer channel the left hemisphere comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from hpc_brainage.modality import Kind

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
_DESIKAN = """
    bankssts caudalanteriorcingulate caudalmiddlefrontal cuneus entorhinal fusiform inferiorparietal
    inferiortemporal isthmuscingulate lateraloccipital lateralorbitofrontal lingual medialorbitofrontal
    middletemporal parahippocampal paracentral parsopercularis parsorbitalis parstriangularis
    pericalcarine postcentral posteriorcingulate precentral precuneus rostralanteriorcingulate
    rostralmiddlefrontal superiorfrontal superiorparietal superiortemporal supramarginal frontalpole
    temporalpole transversetemporal insula
"""
_DESTRIEUX = """
    G_and_S_frontomargin G_and_S_occipital_inf G_and_S_paracentral G_and_S_subcentral
    G_and_S_transv_frontopol G_and_S_cingul-Ant G_and_S_cingul-Mid-Ant G_and_S_cingul-Mid-Post
    G_cingul-Post-dorsal G_cingul-Post-ventral G_cuneus G_front_inf-Opercular G_front_inf-Orbital
    G_front_inf-Triangul G_front_middle G_front_sup G_Ins_lg_and_S_cent_ins G_insular_short
    G_occipital_middle G_occipital_sup G_oc-temp_lat-fusifor G_oc-temp_med-Lingual G_oc-temp_med-Parahip
    G_orbital G_pariet_inf-Angular G_pariet_inf-Supramar G_parietal_sup G_postcentral G_precentral
    G_precuneus G_rectus G_subcallosal G_temp_sup-G_T_transv G_temp_sup-Lateral G_temp_sup-Plan_polar
    G_temp_sup-Plan_tempo G_temporal_inf G_temporal_middle Lat_Fis-ant-Horizont Lat_Fis-ant-Vertical
    Lat_Fis-post Pole_occipital Pole_temporal S_calcarine S_central S_cingul-Marginalis
    S_circular_insula_ant S_circular_insula_inf S_circular_insula_sup S_collat_transv_ant
    S_collat_transv_post S_front_inf S_front_middle S_front_sup S_interm_prim-Jensen
    S_intrapariet_and_P_trans S_oc_middle_and_Lunatus S_oc_sup_and_transversal S_occipital_ant
    S_oc-temp_lat S_oc-temp_med_and_Lingual S_orbital_lateral S_orbital_med-olfact S_orbital-H_Shaped
    S_parieto_occipital S_pericallosal S_postcentral S_precentral-inf-part S_precentral-sup-part
    S_suborbital S_subparietal S_temporal_inf S_temporal_sup S_temporal_transverse
"""


def _both_sides(names: str) -> tuple[str, ...]:
    """Regions of the left hemisphere, then of the right, as FreeSurfer's tables go."""
    return tuple(f"{side}-{region}" for side in ("lh", "rh") for region in names.split())


# CAT12 alternates the sides instead, and gives grey matter of all regions, then fluid of all regions.
VBM_REGIONS = tuple(
    f"{side}{region}_{tissue}_Vol"
    for tissue in ("GM", "CSF")
    for region in _NEUROMORPHOMETRICS.split()
    for side in ("l", "r")
)
DESIKAN_REGIONS = _both_sides(_DESIKAN)
DESTRIEUX_REGIONS = _both_sides(_DESTRIEUX)


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

    With several channels a feature is `{region}_{channel}`; with one it is the region's own name.
    """
    if len(channels) == 1:
        return regions
    return tuple(f"{region}_{channel}" for channel in channels for region in regions)


def channel_unit(channel: str) -> str:
    """The unit at the end of a channel's name ("mm2" of "surface_area_mm^2"), "" if it has none."""
    end = channel.rpartition("_")[2]
    return end.replace("^", "") if end == "mm" or end.startswith("mm^") else ""


def roi_feature_units(regions: tuple[str, ...], channels: tuple[str, ...]) -> tuple[str, ...]:
    """Units of the same features. OpenBHB does not state the unit of CAT12's volumes: "" there."""
    return tuple(channel_unit(channel) for channel in channels for _ in regions)
