"""`brainage train`: a store trains a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpc_brainage.errors import EnvironmentLacks, StoreError

if TYPE_CHECKING:
    from hpc_brainage.model.bundle import Bundle, Comparison
    from hpc_brainage.training.data import TrainingData

DEFAULT_STORE = Path("openbhb.zarr")


def train(
    store: Annotated[
        str | None, typer.Argument(help="The store to train on; by default openbhb.zarr in this folder.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run recipe (TOML), as in configs/abide-multimodal.toml.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE", help="Change one setting of the recipe. May be repeated."
        ),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only these scans, as in \"dx == 'TC'\".")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; by default the store's name.")] = None,
    runs: Annotated[Path, typer.Option(help="The folder that runs are kept in.")] = Path("runs"),
    nodes: Annotated[int, typer.Option(min=1, help="Machines to train on; more than one needs SLURM.")] = 1,
) -> None:
    """Train an SA-AVAE by cross-validation over people and write the model bundle.

    One member is trained for each fold. The error on held-out people stands beside what predicting the
    mean age and a ridge regression reach on the same folds. Run again after an interruption, it goes on
    with the first member that is not finished.
    """
    from hpc_brainage.cli.screen import say
    from hpc_brainage.config import load_config

    settings = load_config(config, set or [])
    if store is None and not DEFAULT_STORE.exists():
        raise StoreError(
            "no store was named, and there is no openbhb.zarr here",
            where=Path.cwd(),
            hint="brainage train STORE, or first brainage convert OPENBHB_FOLDER",
        )
    if nodes > 1:
        _need_slurm(nodes)
    from hpc_brainage.store.place import place_at
    from hpc_brainage.training.records import RunFolder

    place = place_at(store or DEFAULT_STORE)
    run = RunFolder.prepare(runs / (name or place.name.removesuffix(".zarr")), settings, place.label, where)
    if run.is_finished:
        from hpc_brainage.model.bundle import load_bundle

        bundle = load_bundle(run.model)
        say("this run is finished; nothing was left to do")
        show_result(bundle, run.path)
        return
    if nodes > 1:
        say(f"prepared {run.path}; this version leaves the submission to you:")
        say(f"  sbatch --nodes {nodes} --gpus-per-node G --ntasks-per-node G slurm/train.sbatch {run.path}")
        say("  (G GPUs in each node; slurm/train.sbatch is in the repository)")
        return
    train_here(run.path)


def _need_slurm(nodes: int) -> None:
    from hpc_brainage.cluster.slurm import partitions

    if not partitions():
        raise EnvironmentLacks(
            f"--nodes {nodes} needs a SLURM cluster, and this machine reaches none",
            hint="run the command on a cluster's login node, or leave --nodes out to train here",
        )


def train_here(run: Path) -> None:
    """Train a prepared run in this process, showing how it goes."""
    from hpc_brainage.cli.screen import notes, progress, say
    from hpc_brainage.cli.worker import work

    def started(data: TrainingData) -> None:
        modalities = ", ".join(
            f"{int(source.present.sum())} with {role}" for role, source in data.inputs.items()
        )
        people = data.scans["participant_id"].nunique()
        say(f"training on {len(data.scans)} scans of {people} people ({modalities}) -> {run}")
        notes(data.notes)

    with progress("training") as show:

        def epoch(record: dict[str, Any], done: int, total: int) -> None:
            validation = record.get("validation_mae")
            held_back = f", validation MAE {validation:.2f} y" if validation is not None else ""
            show(done, total, f"member {record['member'] + 1}, loss {record['loss']:.3f}{held_back}")

        bundle = work(run, on_start=started, on_epoch=epoch)
    if bundle is not None:
        show_result(bundle, run)


def show_result(bundle: Bundle, run: Path) -> None:
    """The held-out error beside the simple predictors'."""
    from hpc_brainage.cli.screen import say, table, years

    evidence = bundle.info.evidence
    assert evidence is not None, "a finished run has its evidence"
    parts = {"everyone": evidence.everyone}
    parts |= {f"with {group}": part for group, part in evidence.by_available.items()}
    rows = [
        (people if first else "", predictor, p.n, years(p.mae), years(p.rmse), years(p.r2), years(p.r))
        for people, part in parts.items()
        for first, predictor, p in (
            (True, "this model", part.model),
            (False, "ridge, same inputs", part.ridge),
            (False, "predicting the mean age", part.mean_predictor),
            (False, "predicting the median age", part.median_predictor),
        )
    ]
    table(
        f"held-out error, {evidence.folds}-fold over people, years",
        ("people", "predictor", ">scans", ">MAE", ">RMSE", ">R²", ">r"),
        rows,
    )
    if evidence.not_predicted:
        say(f"  · {evidence.not_predicted} scans have too few features to be predicted: in no row above")
    for warning in warnings(evidence.everyone):
        say(warning)
    say(f"model       {run / 'model'}")
    say(f"model card  {run / 'model' / 'MODEL_CARD.md'}")
    say(f"held-out    {run / 'held_out.tsv'}")


def warnings(found: Comparison) -> list[str]:
    """What a reader of the errors must not overlook."""
    model, ridge = found.model, found.ridge
    constants = [
        part.mae for part in (found.mean_predictor, found.median_predictor) if part.mae is not None
    ]
    if model.mae is None or model.r2 is None or model.r2 <= 0 or model.mae >= min(constants):
        return ["WARNING: the model is no better than a constant age; do not use its brain ages"]
    if ridge.mae is not None and model.mae >= ridge.mae:
        return [f"note: ridge regression is as good or better here, by {model.mae - ridge.mae:.2f} years"]
    return []
