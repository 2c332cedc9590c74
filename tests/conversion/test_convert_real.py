from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.conversion.convert import convert
from hpc_brainage.modality import Modality
from hpc_brainage.scans import SCAN_COLUMNS
from hpc_brainage.store.inspect import describe
from hpc_brainage.store.reader import Store
from hpc_brainage.store.verify import verify


@pytest.mark.real
def test_real_connectivity_with_dead_regions_is_stored_without_a_change(
    real_data: Path, tmp_path: Path
) -> None:
    with np.load(real_data / "abide1" / "fmri_fc_ho111_fisherz.npz", allow_pickle=False) as file:
        edges, ids = file["fc_z"].astype(np.float32), file["file_id"].astype(str)
    scans = pd.DataFrame(dict.fromkeys(SCAN_COLUMNS, ""), index=range(len(ids)))
    scans = scans.assign(participant_id=ids, age=np.nan, sex="U")
    names = tuple(f"edge {number}" for number in range(edges.shape[1]))
    modality = Modality("fmri", "fc", "features", (edges.shape[1],), names, ("",) * len(names))
    source = ModalitySource(modality, np.ones(len(ids), bool), lambda row: edges[row])

    report = convert(Cohort("abide", scans, {"fmri/fc": source}), tmp_path / "abide.zarr")
    assert report.converted == len(ids)
    assert verify(report.store_path) == []
    store = Store.open(report.store_path)
    np.testing.assert_array_equal(store.read("fmri/fc"), edges)
    (found,) = describe(store).modalities
    assert found.missing_share == pytest.approx(np.isnan(edges).mean())
    assert found.compression > 2  # these numbers come from float16: half of their bits are empty
