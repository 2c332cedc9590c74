"""Errors of a recipe within training parts, where settings may be chosen.

    python tools/inner_folds.py STORE [--config RECIPE] [--set SECTION.KEY=VALUE ...]
                                [--over people|sites] [--seeds 4]

The test parts of `brainage evaluate --protocol kfold` are never looked at: of each of its five training
parts two of four inner folds are held out, over people, or over sites to see how a setting does at places
that it has not seen. All members are trained in one pass. One line is printed: the mean error of one
network and that of the mean of the seeds, in years, from all modalities and from each alone. Settings that
are compared are trained on the same folds with the same seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import KFold

from hpc_brainage.config import load_config
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.loop import MemberTask
from hpc_brainage.training.prediction import predict_rows
from hpc_brainage.training.stacked import train_stacked

Split = tuple[np.ndarray, np.ndarray]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("store", type=Path)
    words.add_argument("--config", type=Path, default=Path("configs/abide-multimodal.toml"))
    words.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    words.add_argument("--over", choices=("people", "sites"), default="people")
    words.add_argument("--seeds", type=int, default=4)
    said = words.parse_args()
    config = load_config(said.config, said.set)
    data = load_training_data(Store.open(said.store), config)
    splits = inner_splits(data, said.over)
    tasks = [
        MemberTask(seed * len(splits) + number, rows, 1000 * seed + number)
        for seed in range(said.seeds)
        for number, (rows, _) in enumerate(splits)
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tested = np.concatenate([rows for _, rows in splits])
    of_seed: dict[str, list[list[np.ndarray]]] = {}
    trained = train_stacked([data] * len(tasks), tasks, config, device, lambda record: None)
    members = {place: member for place, member, _ in trained}
    for place in range(len(tasks)):
        seed, number = divmod(place, len(splits))
        for name, years in predict_rows(members[place], data, splits[number][1]).items():
            of_seed.setdefault(name, [[] for _ in range(said.seeds)])[seed].append(years)
    parts = []
    for name in [name for name in of_seed if name in ("age", "age_smri", "age_fmri")]:
        years = np.stack([np.concatenate(one) for one in of_seed[name]])
        single = np.nanmean(np.abs(years - data.age[tested]))
        together = np.nanmean(np.abs(years.mean(axis=0) - data.age[tested]))
        parts.append(f"{name} {single:.3f} / {together:.3f}")
    print(f"over {said.over}, {said.seeds} seeds, {' '.join(said.set) or 'as it is'}: {'   '.join(parts)}")


def inner_splits(data: TrainingData, over: str) -> list[Split]:
    """Rows to train on and to test, two for each of the five training parts.

    Tested are people who have all modalities; the others are trained on, except at sites that are tested.
    """
    whole = np.flatnonzero(np.all([source.present for source in data.inputs.values()], axis=0))
    others = np.setdiff1d(np.arange(len(data.scans)), whole)
    site = data.scans["site"].to_numpy()
    splits = []
    for outer, (kept, _) in enumerate(KFold(5, shuffle=True, random_state=0).split(whole)):
        part = whole[kept]
        if over == "people":
            inner = KFold(4, shuffle=True, random_state=outer + 1).split(part)
            held = [np.isin(np.arange(len(part)), tested) for _, tested in inner]
        else:
            names = pd.unique(site[part])
            order = np.random.default_rng(outer).permutation(np.sort(names))
            held = [np.isin(site[part], group) for group in np.array_split(order, 4)]
        for mask in held[(outer + 1) % 2 :: 2]:
            beside = others
            if over == "sites":
                beside = others[~np.isin(site[others], site[part[mask]])]
            splits.append((np.sort(np.concatenate([part[~mask], beside])), part[mask]))
    return splits


if __name__ == "__main__":
    main()
