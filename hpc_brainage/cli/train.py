"""`brainage train`: a store trains a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpc_brainage.cli.job_flags import Account, Partition, Qos, Time
from hpc_brainage.errors import StoreError, UsageError

if TYPE_CHECKING:
    from hpc_brainage.model.bundle import Bundle
    from hpc_brainage.model.evidence import Evidence
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
    nodes: Annotated[int, typer.Option(min=1, help="Machines to train on.")] = 1,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs of each node, with one process on each.")
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            help="auto: SLURM where --nodes or --gpus-per-node ask for it; slurm, or your site's TOML (see"
            " configs/cluster/example.toml); local: as many processes on this machine."
        ),
    ] = "auto",
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    time: Time = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prepare the run and print its sbatch file.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Say how the job goes until it ends; Ctrl-C leaves it running."),
    ] = False,
) -> None:
    """Train an SA-AVAE by cross-validation over people and write the model bundle.

    For each fold one member is trained, or as many as the recipe's training.ensemble says. The error on
    held-out people stands beside what predicting the mean age and the best of a few ridge regressions
    reach on the same folds. Run again after an interruption, it goes on where it was.
    """
    from hpc_brainage.cli.launch import (
        check_shares,
        choose,
        is_under_way,
        launch,
        refuse_other_words,
        refuse_to_print,
    )
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster.resources import Flags
    from hpc_brainage.config import load_config

    settings = load_config(config, set or [])
    if name in (".", "..") or "/" in (name or ""):
        raise UsageError(
            "a run's name is one word, not a path",
            where=f"--name {name}",
            hint="--runs FOLDER says where runs are kept",
        )
    if store is None and not DEFAULT_STORE.exists():
        raise StoreError(
            "no store was named, and there is no openbhb.zarr here",
            where=Path.cwd(),
            hint="brainage train STORE, or first brainage convert OPENBHB_FOLDER",
        )
    way, resources = choose(cluster, nodes, gpus_per_node, Flags(partition, account, qos, time))
    check_shares(nodes * resources.train.processes_per_node, settings.training)
    if dry_run:
        refuse_to_print(way)
    from hpc_brainage.store.place import place_at
    from hpc_brainage.training.records import RunFolder

    place = place_at(store or DEFAULT_STORE)
    path = runs / (name or place.name.removesuffix(".zarr"))
    refuse_other_words(RunFolder(path), settings, where)
    run = RunFolder.prepare(path, settings, place.label, where)
    if run.is_finished:
        from hpc_brainage.model.bundle import load_bundle

        bundle = load_bundle(run.model)
        say("this run is finished; nothing was left to do")
        show_result(bundle, run.path)
        return
    if way == "here":
        train_here(run.path)
        return
    from hpc_brainage.cluster.run_job import batch_file, plan_job

    if dry_run:
        typer.echo(batch_file(run.path, plan_job(run.path, nodes, resources, "slurm")), nl=False)
    elif not is_under_way(run, then_follow=follow):
        job = plan_job(run.path, nodes, resources, "slurm" if way == "slurm" else "local")
        launch(run, job, then_follow=follow)


def train_here(run: Path) -> None:
    """Train a prepared run in this process, showing how it goes."""
    from hpc_brainage.cli.screen import notes, progress, say
    from hpc_brainage.cli.worker import work
    from hpc_brainage.training.records import RunFolder

    folder = RunFolder(run)

    def started(data: TrainingData) -> None:
        modalities = ", ".join(
            f"{int(source.present.sum())} with {role}" for role, source in data.inputs.items()
        )
        people = data.scans["participant_id"].nunique()
        say(f"training on {len(data.scans)} scans of {people} people ({modalities}) -> {run}")
        notes(data.notes)
        if passed_over := folder.status().get("passed_over"):
            say(passed_over)

    members = folder.config().training.members
    what = f"training {members} members, epochs" if members > 1 else "training, epochs"
    with progress(what) as show:

        def epoch(record: dict[str, Any], done: int, total: int) -> None:
            validation = record.get("validation_mae")
            held_back = f", validation MAE {validation:.2f} y" if validation is not None else ""
            show(done, total, f"loss {record['loss']:.3f}{held_back}")

        bundle = work(run, on_start=started, on_epoch=epoch)
    if bundle is not None:
        show_result(bundle, run)


def show_result(bundle: Bundle, run: Path) -> None:
    """The held-out error beside the simple predictors'."""
    from hpc_brainage.cli.screen import say, table, years

    evidence = bundle.info.evidence
    assert evidence is not None, "a finished run has its evidence"
    parts = {"everyone": evidence.everyone}
    parts |= {
        f"with {group}{'' if '+' in group else ' only'}": part
        for group, part in evidence.by_available.items()
    }
    rows = [
        (people if first else "", predictor, p.n, years(p.mae), years(p.rmse), years(p.r2), years(p.r))
        for people, part in parts.items()
        for first, predictor, p in (
            (True, "this model", part.model),
            (False, evidence.ridge_predictor, part.ridge),
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
    calibration = bundle.info.calibration
    if calibration is not None and (held := calibration.coverage.get("everyone")):
        whose = "controls" if calibration.controls else "people"
        say(f"90 % intervals hold the age of {held.covered:.1%} of {held.n} held-out {whose}")
    for warning in warnings(evidence):
        say(warning)
    say(f"model       {run / 'model'}")
    say(f"model card  {run / 'model' / 'MODEL_CARD.md'}")
    say(f"held-out    {run / 'held_out.tsv'}")


def warnings(evidence: Evidence) -> list[str]:
    """What a reader of the errors must not overlook."""
    said = []
    if doubt := evidence.doubt:
        said.append(f"WARNING: {doubt}; do not use its brain ages")
    model, ridge = evidence.everyone.model.mae, evidence.everyone.ridge.mae
    if model is not None and ridge is not None and ridge <= model:
        said.append(f"note: {evidence.beside_ridge}")
    return said
