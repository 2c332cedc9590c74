"""Files beside a score table that look into the model: codes and contributions, made on request.

They take another pass over the scored scans, in this process alone, on its GPU if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.files import write_durably, write_text
from hpc_brainage.model.bundle import ModelInfo, load_bundle
from hpc_brainage.provenance import package_version
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.codes import codes_of
from hpc_brainage.scoring.contributions import contributions, groups_in, refuse_volumes
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.scoring.table import spreadsheet_safe
from hpc_brainage.store.reader import Store


@dataclass(frozen=True)
class Further:
    """What is wanted beside the table.

    Attributes
    ----------
    codes : whether the codes are written to OUT_codes.parquet.
    contributions : by which column of the scans contributions of features are averaged, into
        OUT_contributions.tsv; None for none.
    """

    codes: bool = False
    contributions: str | None = None

    def check(self, info: ModelInfo, scans: pd.DataFrame) -> None:
        """Find out before anything is scored whether it can be had.

        Raises
        ------
        UsageError, ModelError : it cannot.
        """
        if self.contributions is not None:
            refuse_volumes(info)
            groups_in(scans, self.contributions)

    def write(self, store: Store, model: Path, rows: np.ndarray, out: Path) -> dict[str, Path]:
        """Write the files, and return their paths; those of an earlier table of this name are removed.

        Parameters
        ----------
        rows : rows of the store that have been scored.
        out : of the score table, without suffix.
        """
        places = {
            "codes": out.with_name(f"{out.name}_codes.parquet"),
            "contributions": out.with_name(f"{out.name}_contributions.tsv"),
        }
        wanted = {"codes": self.codes, "contributions": self.contributions is not None}
        for kind, path in places.items():
            if not wanted[kind]:
                path.unlink(missing_ok=True)
        if not any(wanted.values()):
            return {}
        import torch

        bundle = load_bundle(model, "cuda" if torch.cuda.is_available() else "cpu")
        predictor = Predictor(bundle, store, match_roles(store, bundle.info), package_version())
        if self.codes:
            table = codes_of(predictor, rows)
            write_durably(places["codes"], lambda file: table.to_parquet(file, index=False))
        if self.contributions is not None:
            group_of = groups_in(store.scans.iloc[rows], self.contributions)
            found = contributions(predictor, rows, group_of)
            for name in ("feature", "group"):
                found[name] = [spreadsheet_safe(value) for value in found[name]]
            content = found.to_csv(sep="\t", index=False, float_format="%.6g")
            write_text(places["contributions"], content)
        return {kind: path for kind, path in places.items() if wanted[kind]}
