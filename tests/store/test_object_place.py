"""Stores on object storage, against an S3-compatible server in this process."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import pytest
import s3fs
from cli.commands import TINY, type_command
from cohorts.nifti_files import voxels, write_image
from conversion.synthetic import cohort_of, features, measurements, people, small_shards, volume
from moto.server import ThreadedMotoServer
from planted import planted_cohort

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.append import append
from hpc_brainage.conversion.convert import convert, finalise, init
from hpc_brainage.conversion.parts import write_parts
from hpc_brainage.errors import BrainAgeError, EnvironmentLacks, ExitCode, StoreError
from hpc_brainage.scans import SCAN_COLUMNS
from hpc_brainage.store.inspect import describe
from hpc_brainage.store.marker import FolderState, folder_state
from hpc_brainage.store.object_place import ObjectPlace
from hpc_brainage.store.place import place_at
from hpc_brainage.store.reader import Store
from hpc_brainage.store.verify import verify

_NUMBERS = itertools.count()
KEY, SECRET = "AKIAPUBLICPART", "the-part-that-nobody-may-see"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that keeps objects in memory."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(autouse=True)
def _environment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as a user has them; nothing of this machine's own, and no long waiting for an answer."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # clients that have read another environment


@pytest.fixture
def bucket(_environment: None) -> str:
    """A bucket of the test's own, as a URL."""
    name = f"bucket-{next(_NUMBERS)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def small_cohort(seed: int = 0, scans: int = 10) -> Cohort:
    """Features and a volume, of which two scans have none."""
    values = {modality: measurements(modality, scans, seed) for modality in (features(7), volume())}
    present = {"smri/vbm": ~np.isin(np.arange(scans), (2, 7))}
    return cohort_of(people(scans, seed)[list(SCAN_COLUMNS)], values, present)


def content(where: Path | str) -> dict[str, bytes]:
    place = place_at(where)
    return {key: place.read(key) for key in place.files()}


def failing_at(cohort: Cohort, row: int) -> Cohort:
    """The cohort, whose volumes are no more to be had from a row on: as if the process were killed."""
    source = cohort.sources["smri/vbm"]

    def load(at: int) -> np.ndarray:
        if at == row:
            raise KeyboardInterrupt
        return source.load(at)  # type: ignore[return-value]

    return replace(cohort, sources=cohort.sources | {"smri/vbm": replace(source, load=load)})


@pytest.mark.parametrize("workers", [1, 4])
def test_a_store_on_s3_has_the_bytes_of_one_on_a_disk(bucket: str, tmp_path: Path, workers: int) -> None:
    cohort = small_cohort()
    images = measurements(volume(), len(cohort))
    with small_shards():
        report = convert(cohort, f"{bucket}/deep/x.zarr", workers=workers)
        local = convert(cohort, tmp_path / "x.zarr")
    assert report.store_path == f"{bucket}/deep/x.zarr"
    assert report.account_path == f"{bucket}/deep/x.account.tsv"
    assert content(report.store_path) == content(local.store_path)
    assert place_at(f"{bucket}/deep").read("x.account.tsv") == (tmp_path / "x.account.tsv").read_bytes()
    assert verify(report.store_path) == []
    store = Store.open(report.store_path)
    rows = np.flatnonzero(store.present("smri/vbm"))
    np.testing.assert_array_equal(store.read("smri/vbm", rows), images[rows])
    out = store.empty("smri/vbm", len(rows))
    store.read_into("smri/vbm", rows, out, threads=3)
    np.testing.assert_array_equal(out, images[rows])
    assert describe(store).modalities == describe(Store.open(local.store_path)).modalities


def test_an_interrupted_conversion_goes_on_and_another_process_may_finish_it(
    bucket: str, tmp_path: Path
) -> None:
    cohort = small_cohort()
    with small_shards():
        with pytest.raises(KeyboardInterrupt):
            convert(failing_at(cohort, 9), f"{bucket}/x.zarr", workers=1)
        with pytest.raises(StoreError, match="has not finished"):
            Store.open(f"{bucket}/x.zarr")
        assert folder_state(place_at(f"{bucket}/x.zarr")) is FolderState.UNFINISHED
        before = write_parts(cohort, init(cohort, f"{bucket}/x.zarr"))
        assert before > 0, "parts that were done are not done again"
        finalise(cohort, init(cohort, f"{bucket}/x.zarr"))
        local = convert(cohort, tmp_path / "x.zarr")
        assert content(f"{bucket}/x.zarr") == content(local.store_path)
        assert convert(cohort, f"{bucket}/x.zarr").nothing_to_do


def test_overwriting_and_adding_scans(bucket: str, tmp_path: Path) -> None:
    url, first, second = f"{bucket}/x.zarr", small_cohort(seed=0), small_cohort(seed=1)
    with small_shards():
        convert(first, url)
        with pytest.raises(StoreError, match="other content"):
            convert(second, url)
        few = second.take(np.arange(7))
        for where in (url, tmp_path / "x.zarr"):
            convert(few, where, overwrite=True)
            append(second, where)
    assert content(url) == content(tmp_path / "x.zarr")
    assert verify(url) == []


def test_who_is_at_work_where_another_conversion_was_begun_is_told(bucket: str, tmp_path: Path) -> None:
    url, first, second = f"{bucket}/x.zarr", small_cohort(seed=0), small_cohort(seed=1)
    with small_shards():
        build = init(first, url)
        convert(second, url, overwrite=True)
        with pytest.raises(StoreError, match="another conversion has taken this place"):
            write_parts(first, build)
        convert(second, tmp_path / "x.zarr")
    assert content(url) == content(tmp_path / "x.zarr")


def test_damage_is_found(bucket: str) -> None:
    url = f"{bucket}/x.zarr"
    table = features(7)
    convert(cohort_of(people(10), {table: measurements(table, 10)}), url)
    place = place_at(url)
    shard = bytearray(place.read("smri_table/c.0.0"))
    shard[20] ^= 1
    client, (_, _, name, *_) = boto3.client("s3"), url.split("/")
    client.put_object(Bucket=name, Key="x.zarr/smri_table/c.0.0", Body=bytes(shard))
    client.put_object(Bucket=name, Key="x.zarr/stray", Body=b"")
    assert {damage.key for damage in verify(url)} == {"smri/table", "stray"}


def test_what_is_not_ours_is_left_alone(bucket: str) -> None:
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    client.put_object(Bucket=name, Key="theirs/notes.txt", Body=b"mine")
    client.put_object(Bucket=name, Key="theirs.txt", Body=b"mine")
    for key in ("theirs", "theirs.txt"):
        with pytest.raises(StoreError, match="not a store of ours"):
            convert(small_cohort(), f"{bucket}/{key}", overwrite=True)
    listed = client.list_objects_v2(Bucket=name)["Contents"]
    assert [entry["Key"] for entry in listed] == ["theirs.txt", "theirs/notes.txt"]


def test_what_the_user_types(bucket: str, tmp_path: Path) -> None:
    said = []

    def brainage(*words: object) -> int:
        answer = type_command(tmp_path, *words)
        said.append(answer.text)
        return answer.code

    for number in range(4):
        write_image(tmp_path / "t1w" / f"sub-{number}_T1w.nii.gz", voxels(number))
    (tmp_path / "cohort.toml").write_text(f'source = "t1w"\noutput = "{bucket}/again.zarr"\n')
    url = f"{bucket}/study/t1w.zarr"
    assert brainage("convert", "t1w", url) == ExitCode.DONE
    assert f"t1w: 4 scans -> {url}" in said[-1]
    assert f"account {bucket}/study/t1w.account.tsv" in said[-1]
    assert brainage("inspect", url) == ExitCode.DONE
    assert "4 of 4 people" in said[-1]
    assert brainage("verify", url, "--against", "t1w") == ExitCode.DONE
    write_image(tmp_path / "t1w" / "sub-9_T1w.nii.gz", voxels(9))
    assert brainage("convert", "t1w", url, "--append") == ExitCode.DONE
    assert "5 scans in the store" in said[-1]
    assert brainage("convert", "--recipe", "cohort.toml") == ExitCode.DONE
    assert Store.open(f"{bucket}/again.zarr").n_scans == 5
    everything = [*content(url).values(), place_at(f"{bucket}/study").read("t1w.account.tsv")]
    everything += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    everything += [text.encode() for text in said]
    for secret in (KEY, SECRET):
        assert not any(secret.encode() in some for some in everything)


@pytest.mark.slow
def test_a_model_is_trained_on_a_store_on_s3_and_scores_it(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/planted.zarr"
    convert(planted_cohort(60), url)
    settings = [word for setting in TINY for word in ("--set", setting)]
    trained = type_command(tmp_path, "train", url, *settings)
    assert trained.code == ExitCode.DONE, trained.text
    request = (tmp_path / "runs" / "planted" / "request.json").read_text()
    assert url in request
    refused = type_command(tmp_path, "score", "s3://user:hush@bucket/x.zarr")
    assert refused.code == ExitCode.INPUT
    assert "hush" not in refused.text
    scored = type_command(tmp_path, "score", url)
    assert scored.code == ExitCode.DONE, scored.text
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".tsv" for path in written)
    for secret in (KEY, SECRET):
        assert not any(secret.encode() in path.read_bytes() for path in written)
        assert secret not in trained.text + scored.text


@pytest.mark.parametrize(
    "url",
    ["s3://user:hush@bucket/x.zarr", "s3://hush@bucket/x.zarr", "s3://bucket/x.zarr?X-Amz-Signature=hush"],
)
def test_an_address_with_credentials_in_it_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    write_image(tmp_path / "t1w" / "sub-1_T1w.nii", voxels(1))
    for words in (
        ("convert", "t1w", url),
        ("inspect", url),
        ("verify", url),
        ("train", url),
    ):
        answer = type_command(tmp_path, *words)
        assert answer.code == ExitCode.INPUT
        assert "holds more than its place" in answer.text, words
        assert "come from the environment" in answer.text
        assert "hush" not in answer.text, words


def said_of(url: str) -> tuple[BrainAgeError, BrainAgeError]:
    """What a conversion to this address, and somebody who wants to read it, are told."""
    with pytest.raises(BrainAgeError) as writing:
        convert(small_cohort(), url)
    with pytest.raises(BrainAgeError) as reading:
        Store.open(url)
    return writing.value, reading.value


def test_a_bucket_that_is_not_there_is_said() -> None:
    writing, reading = said_of("s3://nobody-made-this/x.zarr")
    assert "The specified bucket does not exist" in str(writing)
    assert "look at the bucket" in str(writing)
    assert "there is no store here" in str(reading)


def test_an_address_without_a_name_for_the_store_is_refused(bucket: str) -> None:
    with pytest.raises(StoreError, match="names no store"):
        place_at(bucket)


def test_wrong_credentials_are_said(bucket: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    authority = partial(requests.post, f"{server}/moto-api/reset-auth", timeout=10)
    convert(small_cohort(), f"{bucket}/x.zarr")
    authority(data=b"0")
    try:
        writing, reading = said_of(f"{bucket}/x.zarr")
    finally:
        authority(data=b"inf")
    for error in (writing, reading):
        assert "the object store says: " in error.what
        assert "the credentials" in str(error.hint)
        assert SECRET not in str(error)
    assert isinstance(writing, EnvironmentLacks)


def test_no_credentials_at_all_are_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for error in said_of(f"{bucket}/x.zarr"):
        assert "Unable to locate credentials" in error.what
        assert "the credentials" in str(error.hint)


def test_a_server_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    writing, reading = said_of("s3://bucket/x.zarr")
    assert isinstance(writing, EnvironmentLacks)
    for error in (writing, reading):
        assert "Could not connect to the endpoint" in error.what
        assert "the endpoint in the environment" in str(error.hint)


def test_what_must_be_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = importlib.import_module("fsspec.registry")._registry
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registered, "s3", raising=False)
    with pytest.raises(StoreError, match=r"pip install 'hpc-brainage\[s3\]'"):
        place_at("S3://bucket/x.zarr")
    with pytest.raises(StoreError, match=r"nosuch:// cannot be reached"):
        place_at("nosuch://bucket/x.zarr")


@pytest.mark.parametrize("finished", [True, False])
def test_who_is_killed_while_a_store_is_removed_can_overwrite_what_is_left(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    url, first, second = f"{bucket}/x.zarr", small_cohort(seed=0), small_cohort(seed=1)
    with small_shards():
        convert(first, url) if finished else write_parts(first, init(first, url))
        remove = ObjectPlace.remove

        def killed(place: ObjectPlace, key: str) -> None:
            if key.startswith("smri_vbm"):
                raise KeyboardInterrupt
            remove(place, key)

        with monkeypatch.context() as patched:
            patched.setattr(ObjectPlace, "remove", killed)
            with pytest.raises(KeyboardInterrupt):
                convert(second, url, overwrite=True)
        with pytest.raises(StoreError, match="--overwrite starts it again"):
            convert(second, url)
        convert(second, url, overwrite=True)
        convert(second, tmp_path / "x.zarr")
    assert content(url) == content(tmp_path / "x.zarr")
