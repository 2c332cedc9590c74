"""One name for one region, whatever source spells it.

A model meets a store by the names of its features, so a region must be called the same in an OpenBHB
download, a FreeSurfer subjects directory and somebody's table. The name that is kept is the one of
FreeSurfer 7's own tables (`aparcstats2table`, `asegstats2table`):

==========================  =====================================  ===================================
kept                        other spellings                        written by
==========================  =====================================  ===================================
`lh_bankssts_thickness`     `lh-bankssts_average_thickness_mm`     OpenBHB
..                          `lh_bankssts_ThickAvg`                 tables made of the `.stats` files
..                          `L_bankssts_thickavg`                  ENIGMA
`lh_G_and_S_subcentral_..`  `lh_G&S_subcentral_..`, `lh_G.S_..`    FreeSurfer 6.0; R, out of that
`lh_MeanThickness_..`       `lh_MeanThickness`                     tables made of the `.stats` files
`Left-Thalamus`             `Left-Thalamus-Proper`                 FreeSurfer up to 6.0
..                          `Left.Thalamus`                        R
`Left-Hippocampus`          `Left-Hippocampus_Volume_mm3`          tables made of the `.stats` files
==========================  =====================================  ===================================

A cortical name that begins with `lh` or `rh` and holds a region and a measure of FreeSurfer is
unmistakable. Other software has a left insula and a left hippocampus too: such names are only believed
in a table that also names a region which nobody but FreeSurfer calls so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from hpc_brainage.cohorts.freesurfer_names import newest_spelling

_DESIKAN = """
    bankssts caudalanteriorcingulate caudalmiddlefrontal cuneus entorhinal fusiform inferiorparietal
    inferiortemporal isthmuscingulate lateraloccipital lateralorbitofrontal lingual medialorbitofrontal
    middletemporal parahippocampal paracentral parsopercularis parsorbitalis parstriangularis
    pericalcarine postcentral posteriorcingulate precentral precuneus rostralanteriorcingulate
    rostralmiddlefrontal superiorfrontal superiorparietal superiortemporal supramarginal frontalpole
    temporalpole transversetemporal insula
"""
DESIKAN = tuple(_DESIKAN.split())
"""Regions of the Desikan-Killiany atlas (`aparc`), in the order of FreeSurfer; DKT has most of them."""

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
DESTRIEUX = tuple(_DESTRIEUX.split())
"""Regions of the Destrieux atlas (`aparc.a2009s`), in the order and spelling of FreeSurfer 7."""

_SIDED_STRUCTURES = """
    Lateral-Ventricle Inf-Lat-Vent Cerebellum-White-Matter Cerebellum-Cortex Thalamus Caudate Putamen
    Pallidum Hippocampus Amygdala Accumbens-area VentralDC vessel choroid-plexus Cerebral-White-Matter
    Cerebral-Cortex WM-hypointensities non-WM-hypointensities
"""
_OTHER_STRUCTURES = """
    3rd-Ventricle 4th-Ventricle 5th-Ventricle Brain-Stem CSF WM-hypointensities non-WM-hypointensities
    Optic-Chiasm CC_Posterior CC_Mid_Posterior CC_Central CC_Mid_Anterior CC_Anterior
"""
# The measures of aparcstats2table, and how other tables call them, without the signs between words.
_MEASURES = {
    "area": "area areamm2 surfarea surfavg surfacearea surfaceareamm2",
    "volume": "volume volumemm3 vol grayvol graymattervolume graymattervolumemm3",
    "thickness": "thickness thicknessmm thick thickavg averagethickness averagethicknessmm meanthickness",
    "thicknessstd": "thicknessstd thickstd thicknessstddev thicknessstddevmm",
    "meancurv": "meancurv integratedrectifiedmeancurvature integratedrectifiedmeancurvaturemm1",
    "gauscurv": "gauscurv integratedrectifiedgaussiancurvature integratedrectifiedgaussiancurvaturemm2",
    "foldind": "foldind foldingindex",
    "curvind": "curvind intrinsiccurvatureindex",
}
_HEMISPHERES = {"WhiteSurfArea": "area", "MeanThickness": "thickness"}
# Of the fluid, only FreeSurfer's own words are believed: others give that of the whole head.
_VOLUME = re.compile(r"(volumemm3|(?<!csf)(volume|vol|mm3))$")

_CORTICAL = re.compile(r"(lh|rh)[\s_.\-]+(.+)", re.IGNORECASE)
_SIDED = re.compile(r"(l|r|left|right)[\s_.\-]+(.+)", re.IGNORECASE)
# Words that no other software uses for these regions.
_FREESURFERS_OWN = re.compile(
    r"[lr]h_(bankssts|caudalmiddlefrontal|isthmuscingulate|rostralmiddlefrontal|[GS]_.+)_[a-z]+"
    r"|(Left|Right)-(Accumbens-area|VentralDC|Inf-Lat-Vent|choroid-plexus)"
)


def region_name(name: str) -> str:
    """The name that FreeSurfer's own tables give to the same region; any other name as it is.

    Only for a spelling that leaves no doubt by itself; see `region_names` for a whole table.
    """
    name = newest_spelling(name)
    if found := _CORTICAL.fullmatch(name.strip()):
        measured = _cortex().get(_key(found[2]))
        return f"{found[1].casefold()}_{measured}" if measured else name
    return name


def region_names(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of a table by the names of their regions, and those among `names` that were renamed.

    A column keeps its own name where the new one would then be there twice: such a table has both.
    """
    table = [region_name(name) for name in names]
    guesses = [_region_elsewhere(name) for name in table]
    if any(_FREESURFERS_OWN.fullmatch(guess) for guess in guesses):
        table = guesses
    times = Counter(table)
    kept = tuple(new if times[new] == 1 else name for name, new in zip(names, table, strict=True))
    return kept, tuple(name for name, new in zip(names, kept, strict=True) if name != new)


def _region_elsewhere(name: str) -> str:
    """What a name means if it is one of FreeSurfer's, however its side and its words are spelled."""
    if structure := _structures().get(_VOLUME.sub("", _key(name))):
        return structure
    if found := _SIDED.fullmatch(name.strip()):
        measured = _cortex().get(_key(found[2]))
        return f"{found[1][0].casefold()}h_{measured}" if measured else name
    return name


def _key(words: str) -> str:
    """Letters and digits in lower case, no signs between them; no X that R puts before a digit."""
    plain = re.sub(r"[^a-z0-9]", "", words.casefold().replace("&", "and"))
    return re.sub(r"^x(?=\d)", "", plain)


@lru_cache(maxsize=1)
def _cortex() -> dict[str, str]:
    """Key of region and measure -> `bankssts_thickness`; R writes `G.S_` for `G&S_`, without an "and"."""
    regions = {_key(region): region for region in (*DESIKAN, *DESTRIEUX)}
    regions |= {_key(region.replace("_and_", "_")): region for region in DESTRIEUX}
    found = {
        key + word: f"{region}_{measure}"
        for key, region in regions.items()
        for measure, words in _MEASURES.items()
        for word in words.split()
    }
    for region, measure in _HEMISPHERES.items():
        found |= {_key(region): f"{region}_{measure}", _key(region) + measure: f"{region}_{measure}"}
    return found


@lru_cache(maxsize=1)
def _structures() -> dict[str, str]:
    """Key of a structure of the subcortical segmentation -> its name."""
    sided = {
        _key(f"{side}-{name}"): f"{side}-{name}"
        for side in ("Left", "Right")
        for name in _SIDED_STRUCTURES.split()
    }
    older = {_key(f"{side}-Thalamus-Proper"): f"{side}-Thalamus" for side in ("Left", "Right")}
    return {**sided, **older, **{_key(name): name for name in _OTHER_STRUCTURES.split()}}
