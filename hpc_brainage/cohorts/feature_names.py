"""What the name of a column says about it: a brain measurement, its unit, and whether 0 can be true.

The spellings are those of FreeSurfer's table writers (`lh_bankssts_thickness`, `Left-Hippocampus`,
`lh.aparc.area`), of ENIGMA (`L_bankssts_thickavg`), of CAT12 (`lHip_GM_Vol`) and of connectomes
(`17--210`, or every pair of one set of labels joined by one sign, as `VisualA_VisualB`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

_SUBCORTICAL = """
    lateral-ventricle inf-lat-vent cerebellum-white-matter cerebellum-cortex thalamus-proper thalamus
    caudate putamen pallidum hippocampus amygdala accumbens-area ventraldc vessel choroid-plexus
    cerebral-white-matter cerebral-cortex wm-hypointensities non-wm-hypointensities
"""
_MIDLINE = """
    3rd-ventricle 4th-ventricle 5th-ventricle brain-stem csf wm-hypointensities non-wm-hypointensities
    optic-chiasm cc-posterior cc-mid-posterior cc-central cc-mid-anterior cc-anterior
"""
_VOLUMES = """
    brainsegvol brainsegvolnotvent brainsegvolnotventsurf lhcortexvol rhcortexvol cortexvol
    lhcerebralwhitemattervol rhcerebralwhitemattervol cerebralwhitemattervol lhcorticalwhitemattervol
    rhcorticalwhitemattervol corticalwhitemattervol subcortgrayvol totalgrayvol supratentorialvol
    supratentorialvolnotvent supratentorialvolnotventvox maskvol ventriclechoroidvol etiv
    estimatedtotalintracranialvol intracranialvol
"""
_SEGMENTED = {f"{side}-{region}" for side in ("left", "right") for region in _SUBCORTICAL.split()}
_SEGMENTED |= set(_MIDLINE.split())
_WHOLE_BRAIN = set(_VOLUMES.split())
_RATIOS = {"brainsegvol-to-etiv", "maskvol-to-etiv"}
# A segmentation may find none of these in a healthy brain, and a thickness need not vary: there 0 is a
# value, not a failure.
_MAY_BE_ZERO = re.compile(
    r"hypointensities|vessel|5th-ventricle|-(thicknessstd|thickstd|thickness-std|thickness-stddev(-mm)?)$"
)

_MEASURES: tuple[tuple[str, str], ...] = (
    (r"thickness|thickavg|thick|meanthickness", "mm"),
    (r"surfarea|surfavg|area", "mm2"),
    (r"grayvol|graymattervolume|volume-mm3|volume|vol", "mm3"),
    (r"thicknessstd|thickstd|thickness-std", "mm"),
    (r"meancurv|gauscurv|foldind|curvind|numvert|curv|sulc", ""),
)
_HEMISPHERE = re.compile(r"(lh|rh)-.+")
_SIDE = re.compile(r"(l|r|left|right|ctx-lh|ctx-rh)-.+")
_CAT12 = re.compile(r".+-(gm|wm|csf)-vol")
# Holes of the surface are (2 - Euler number) / 2: a measure of image quality, not of the brain.
_QUALITY = (
    r"euler|(lh|rh)?surfaceholes|holes|snr|cnr|qc|rating|quality|dvars|fd|motion|outlier"
    r"|iqr|ncr|icr|efc|fber"
)
# Numbers that tables carry beside measurements: demography, behaviour, quality, bookkeeping.
_NOT_BRAIN = re.compile(
    rf"""
    unnamed.* | index | (.*-)?ids? | .*-code | age(-.*)? | sex | gender | sites?(num|-.*)? | scanner
    | group | dx.* | diagnosis.* | split | fold | year.* | (f|v|p)s?iq | iq(-.*)? | bmi | height
    | weight | hand(ed(ness)?)?(-.*)? | edu(cation)?(-.*)? | eye-status.* | .*-?score | mmse | n-.*
    | num-.* | has-.* | good-time | tr | (.*-)?({_QUALITY})(-.*)?
    """,
    re.VERBOSE,
)
_PAIR = re.compile(r"([A-Za-z0-9]+)([_~:|,\-])([A-Za-z0-9]+)")
_SMALLEST_CONNECTOME = 4


def plain(name: str) -> str:
    """Lower case, one hyphen between words, no `X` that R puts before a digit."""
    words = re.sub(r"[\s._\-()\[\]]+", "-", name.strip().casefold()).strip("-")
    return re.sub(r"^x(?=\d)", "", words)


def is_brain_name(name: str) -> bool:
    """Whether a column's own name says that it is a regional or global brain measurement."""
    word = plain(name)
    if _NOT_BRAIN.fullmatch(word):
        return False
    if "--" in name or _segmented(word) or word in _WHOLE_BRAIN or word in _RATIOS:
        return True
    if _HEMISPHERE.fullmatch(word) or _CAT12.fullmatch(word):
        return True
    return bool(_SIDE.fullmatch(word)) and _measure(word) is not None


def is_not_brain_name(name: str) -> bool:
    """Whether a column's own name says that it is about the person, the visit or the image quality."""
    return _NOT_BRAIN.fullmatch(plain(name)) is not None


def may_name_people(name: str) -> bool:
    """Whether a column that is no measurement could hold identities: `scan ID`, `subject code`."""
    return re.fullmatch(r"(.*-)?(ids?|code)", plain(name)) is not None


def brain_columns(names: Sequence[str]) -> set[str]:
    """The columns among `names` that are brain measurements by their names, a connectome's too."""
    return {name for name in names if is_brain_name(name)} | connectome_columns(names)


def edge_columns(names: Collection[str]) -> set[str]:
    """The columns among `names` that are edges between two regions: `a--b`, or of a whole connectome."""
    return {name for name in names if "--" in name} | connectome_columns(names)


def connectome_columns(names: Iterable[str]) -> set[str]:
    """Columns that together are every pair of one set of at least four labels, each pair once.

    One pair of words (`mean_FD`) says nothing; all n (n - 1) / 2 pairs of n labels are a connectome.
    """
    column_of: dict[tuple[str, frozenset[str]], str] = {}
    partners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:
        if (pair := _PAIR.fullmatch(name)) is None or pair[1] == pair[3]:
            continue
        first, sign, second = pair.groups()
        column_of[sign, frozenset((first, second))] = name
        partners[sign, first].add(second)
        partners[sign, second].add(first)
    # In a connectome every label has the same neighbours, if it counts as its own.
    members: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    neighbours = {key: frozenset(others | {key[1]}) for key, others in partners.items()}
    for (sign, label), together in neighbours.items():
        members[sign, together].add(label)
    return {
        column
        for (sign, pair_of_labels), column in column_of.items()
        for together in [neighbours[sign, min(pair_of_labels)]]
        if len(together) >= _SMALLEST_CONNECTOME and members[sign, together] == together
    }


def unit_of(name: str) -> str:
    """ "mm", "mm2" or "mm3" where the name leaves no doubt, else ""."""
    word = plain(name)
    if word in _RATIOS or _CAT12.fullmatch(word):  # CAT12 states millilitres, or not at all
        return ""
    if _segmented(word) or word in _WHOLE_BRAIN:
        return "mm3"
    if _HEMISPHERE.fullmatch(word) or _SIDE.fullmatch(word):
        return _measure(word) or ""
    return ""


def zero_is_missing(name: str, unit: str | None = None) -> bool:
    """Whether a value of exactly 0 can only mean that the region was not measured.

    `unit` is what the source states; if it does not, the name tells.
    """
    unit = unit_of(name) if unit is None else unit
    return unit in ("mm", "mm2", "mm3") and not _MAY_BE_ZERO.search(plain(name))


def _segmented(word: str) -> bool:
    """A region of the subcortical segmentation, with or without the words "volume (mm3)"."""
    return re.sub(r"-(volume|vol|volume-mm3|mm3)$", "", word) in _SEGMENTED


def _measure(word: str) -> str | None:
    """The unit of the measure that a cortical name ends in; None if it ends in no known measure."""
    for endings, unit in _MEASURES:
        if re.search(rf"-({endings})$", word):
            return unit
    return None
