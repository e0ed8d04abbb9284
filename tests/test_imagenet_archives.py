"""``ditcnn data imagenet``, on small archives of the form of the real ones."""

import fcntl
import io
import os
import re
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import savemat

from ditcnn.cli import main
from ditcnn.data.imagenet_devkit import read_devkit

WNIDS = ("n01440764", "n01443537", "n02105855")  # the leaves of the devkit's table, in the order of their numbers 1 to 3
TRAIN = {"n01440764": 3, "n01443537": 1, "n02105855": 2}
TRUTH = (2, 1, 3, 1, 2, 3, 2)


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch):
    """Leave out the sync of all disks, which waits for whatever else the machine writes."""
    monkeypatch.setattr("ditcnn.data.imagenet_folders.os.sync", lambda: None)


def tar_bytes(files: dict[str, bytes], *, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def picture(name: str) -> bytes:
    """Return content that tells images apart and does not end on one of tar's blocks."""
    return f"image {name} ".encode() * 90


def train_images(wnid: str) -> dict[str, bytes]:
    return {f"{wnid}_{10 * k}.JPEG": picture(f"{wnid}_{k}") for k in range(TRAIN[wnid])}


def val_images(count: int = len(TRUTH)) -> dict[str, bytes]:
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, count + 1)]
    return {name: picture(name) for name in names}


def meta_mat() -> bytes:
    """Return meta.mat with the fields of the real one: the classes, and a synset above them that is no class."""
    kind = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")]
    kind += [("wordnet_height", object), ("num_train_images", object)]
    rows = [
        (float(k + 1), w, f"word {k}, other", "gloss", 0.0, np.zeros((1, 0)), 0.0, float(TRAIN[w]))
        for k, w in enumerate(WNIDS)
    ]
    rows.append((4.0, "n00001740", "entity", "all", 3.0, np.array([[1.0, 2.0, 3.0]]), 1.0, 6.0))
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, dtype=kind)[:, None]})
    return buffer.getvalue()


def write_devkit(path: Path, *, truth: str | None = None, meta: bytes | None = None, leave_out: str = "-") -> Path:
    root = "ILSVRC2012_devkit_t12"
    files = {
        f"{root}/readme.txt": b"words",
        f"{root}/data/meta.mat": meta_mat() if meta is None else meta,
        f"{root}/data/ILSVRC2012_validation_ground_truth.txt": (truth or "".join(f"{n}\n" for n in TRUTH)).encode(),
    }
    kept = {name: content for name, content in files.items() if leave_out not in name}
    path.write_bytes(tar_bytes(kept, mode="w:gz"))
    return path


@pytest.fixture
def here(tmp_path) -> SimpleNamespace:
    """The three archives, and where to write."""
    place = SimpleNamespace(
        train=tmp_path / "ILSVRC2012_img_train.tar",
        val=tmp_path / "ILSVRC2012_img_val.tar",
        devkit=tmp_path / "ILSVRC2012_devkit_t12.tar.gz",
        out=tmp_path / "imagenet",
    )
    write_train(place.train)
    place.val.write_bytes(tar_bytes(val_images()))
    write_devkit(place.devkit)
    return place


def write_train(path: Path, **inner: bytes) -> None:
    """Write the archive of the training images; ``inner`` replaces the archives of classes."""
    classes = {f"{wnid}.tar": inner.get(wnid, tar_bytes(train_images(wnid))) for wnid in reversed(WNIDS)}
    path.write_bytes(tar_bytes(classes))


def arguments(here: SimpleNamespace, parts: str = "train val") -> list[str]:
    flags = ["data", "imagenet", "--devkit", str(here.devkit), "--out", str(here.out)]
    for part in parts.split():
        flags += [f"--{part}-tar", str(getattr(here, part))]
    return flags


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EXPECTED = {f"train/{w}/{name}": content for w in WNIDS for name, content in train_images(w).items()} | {
    f"val/{WNIDS[n - 1]}/{name}": content for n, (name, content) in zip(TRUTH, val_images().items(), strict=True)
}


def fails(capsys, argv: list[str]) -> str:
    """Run a command that must end with status 2 and one line; return the line."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_archives_become_class_folders_byte_for_byte(capsys, here):
    assert main(arguments(here)) == 0
    assert contents(here.out) == EXPECTED
    assert sorted(os.listdir(here.out)) == ["train", "val"]
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{here.out}/train: 3 classes, 6 images, as many as the devkit says",
        f"{here.out}/val: 3 classes, 7 images, as many as the devkit says",
    ]


def test_each_archive_may_come_alone(capsys, here):
    assert main(arguments(here, "val")) == 0
    assert {f"val/{name}" for name in contents(here.out / "val")} == {name for name in EXPECTED if name.startswith("val")}
    assert not (here.out / "train").exists()
    assert main(["data", "imagenet", "--train-tar", str(here.train), "--out", str(here.out)]) == 0
    assert contents(here.out) == EXPECTED
    assert "6 images, not compared with the devkit" in capsys.readouterr().out


def test_the_devkit_may_be_unpacked_and_tars_may_have_a_leading_dot(here, tmp_path):
    shutil.unpack_archive(here.devkit, tmp_path / "kit", filter="data")
    here.devkit = tmp_path / "kit" / "ILSVRC2012_devkit_t12"
    here.val.write_bytes(tar_bytes({f"./{name}": content for name, content in val_images().items()}))
    assert main(arguments(here)) == 0
    assert contents(here.out) == EXPECTED


def test_what_is_there_already_is_left_alone(capsys, here):
    main(arguments(here))
    before = {path: path.stat().st_mtime_ns for path in here.out.rglob("*")}
    capsys.readouterr()
    assert main(arguments(here)) == 0
    assert {path: path.stat().st_mtime_ns for path in here.out.rglob("*")} == before
    assert "3 classes were there already" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("stop_at", range(6))
def test_an_interrupted_run_goes_on_without_redoing_finished_classes(capsys, monkeypatch, here, part, stop_at):
    written = []
    write = Path.open

    def interrupted(path, mode="r", *rest):
        if mode == "xb":
            if len(written) == stop_at:
                write(path, mode).write(b"half")
                raise KeyboardInterrupt
            written.append(path.name)
        return write(path, mode, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", interrupted)
        assert main(arguments(here, part)) == 130
    assert not (here.out / part).exists()  # nothing that looks finished
    work = here.out / ".preparing" / part
    finished = {w for w in WNIDS if (work / w).exists()}
    wanted = {name: content for name, content in EXPECTED.items() if name.startswith(part)}
    assert {f"{part}/{w}/{n}": c for w in finished for n, c in contents(work / w).items()} == {
        name: content for name, content in wanted.items() if name.split("/")[1] in finished
    }
    inodes = {path.name: path.stat().st_ino for w in finished for path in (work / w).iterdir()}
    assert main(arguments(here, part)) == 0
    assert contents(here.out) == wanted
    assert {path.name: path.stat().st_ino for w in finished for path in (here.out / part / w).iterdir()} == inodes
    assert (f"{len(finished)} classes were there already" in capsys.readouterr().out) == bool(finished)


def test_a_class_reaches_the_disk_before_its_name(monkeypatch, here):
    events = []
    rename = os.rename
    monkeypatch.setattr("ditcnn.data.imagenet_folders.os.sync", lambda: events.append("sync"))
    monkeypatch.setattr("ditcnn.data.imagenet_folders.os.rename", lambda a, b: events.append("rename") or rename(a, b))
    main(arguments(here, "val"))
    assert events == ["sync", "rename"] * 4


def test_one_part_finished_does_not_lose_what_waits_of_the_other(here):
    write_train(here.train, n02105855=b"x" * 1536)
    assert main(arguments(here, "train")) == 2
    assert main(arguments(here, "val")) == 0
    assert sorted(os.listdir(here.out / ".preparing" / "train")) == [".n02105855", "n01440764", "n01443537"]
    write_train(here.train)
    assert main(arguments(here, "train")) == 0
    assert contents(here.out) == EXPECTED


def test_a_second_process_is_refused(capsys, here):
    (here.out / ".preparing").mkdir(parents=True)
    with (here.out / ".preparing" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is preparing" in fails(capsys, arguments(here))
    assert main(arguments(here)) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[: len(c) // 2], "is cut off|no whole tar archive|is damaged"),
        (lambda c: c[:512] + c[512:600], "is cut off"),
        (lambda c: b"", "n01440764.tar is empty"),
        (lambda c: b"text" * 512, "no whole tar archive"),
        (lambda c: c[:2560] + b"?" * 512 + c[3072:], "is damaged at byte 2,560"),
        (lambda c: tar_bytes({"n01440764_0.JPEG": b"1", "n01440764_1.JPEG": b"2"}), "holds 2 images, and the devkit says 3"),
        (lambda c: tar_bytes({}), "holds 0 images, and the devkit says 3"),
        (lambda c: tar_bytes({"n01440764_0.JPEG": b""}), "n01440764_0.JPEG is empty"),
        (lambda c: tar_bytes({"n01440764_0.JPEG": b"1"})[:1024], "tar's mark of the end is missing"),
    ],
)
def test_a_damaged_archive_of_a_class_is_named(capsys, here, damage, message):
    write_train(here.train, n01440764=damage(tar_bytes(train_images("n01440764"))))
    line = fails(capsys, arguments(here))
    assert f"{here.train}:n01440764.tar" in line
    assert re.search(message, line)
    assert not (here.out / "train").exists()
    assert not (here.out / ".preparing" / "train" / "n01440764").exists()


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_cut_off_download_writes_nothing_wherever_it_is_cut(capsys, here, part):
    archive = getattr(here, part)
    content = archive.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512  # of the last file's data, rounded up to a block
    for length in (*range(0, end, 512), end - 100, 700):
        archive.write_bytes(content[:length])
        assert str(archive) in fails(capsys, arguments(here))
        assert not here.out.exists()


@pytest.mark.parametrize("name", ["../escape.JPEG", "/etc/passwd", "a/b.JPEG", "n1.txt", ".hidden.JPEG", "x\n.JPEG"])
def test_names_that_lead_elsewhere_are_refused(capsys, here, name):
    write_train(here.train, n01440764=tar_bytes({name: b"content"}))
    line = fails(capsys, arguments(here, "train"))
    assert repr(name) in line
    assert not list(here.out.rglob("*escape*"))
    write_train(here.train)
    here.val.write_bytes(tar_bytes({name: b"content"}))
    assert repr(name) in fails(capsys, arguments(here, "val"))
    here.train.write_bytes(tar_bytes({name: b"content"}))
    assert repr(name) in fails(capsys, arguments(here, "train"))


def test_links_in_an_archive_are_refused(capsys, here):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("n01440764_0.JPEG")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    write_train(here.train, n01440764=buffer.getvalue())
    assert "where only files belong" in fails(capsys, arguments(here, "train"))


def test_the_wrong_archive_is_told_by_its_names(capsys, here):
    here.train, here.val = here.val, here.train
    assert "as in ILSVRC2012_img_train.tar" in fails(capsys, arguments(here, "train"))
    assert "as in ILSVRC2012_img_val.tar" in fails(capsys, arguments(here, "val"))


def test_images_and_classes_that_come_twice_are_refused(capsys, here):
    twice = tar_bytes({"n01440764_0.JPEG": b"1", "./n01440764_0.JPEG": b"2"})
    write_train(here.train, n01440764=twice)
    assert "holds n01440764_0.JPEG twice" in fails(capsys, arguments(here, "train"))
    here.train.write_bytes(tar_bytes({"n01440764.tar": twice, "./n01440764.tar": twice}))
    assert "holds n01440764.tar twice" in fails(capsys, arguments(here, "train"))
    first = "ILSVRC2012_val_00000001.JPEG"
    here.val.write_bytes(tar_bytes({first: b"1", f"./{first}": b"2"}))
    assert f"holds {first} twice" in fails(capsys, arguments(here, "val"))


def test_classes_other_than_the_devkits_are_named(capsys, here):
    classes = {f"{wnid}.tar": tar_bytes(train_images(wnid)) for wnid in WNIDS[:2]}
    here.train.write_bytes(tar_bytes(classes))
    assert "lacks 1 classes (n02105855); the devkit has 3" in fails(capsys, arguments(here))
    write_train(here.train)
    here.train.write_bytes(tar_bytes(classes | {"n02105855.tar": b"x", "n99999999.tar": b"x"}))
    assert "does not know 1 classes (n99999999)" in fails(capsys, arguments(here))
    here.train.write_bytes(tar_bytes({}))
    assert "lacks 3 classes" in fails(capsys, arguments(here))
    assert "holds no classes" in fails(capsys, ["data", "imagenet", "--train-tar", str(here.train), "--out", str(here.out)])
    assert not here.out.exists()


@pytest.mark.parametrize(
    ("count", "message"), [(6, "holds 6 images.*00000007.JPEG is missing"), (8, "00000008.JPEG, and the")]
)
def test_validation_images_must_be_as_many_as_the_ground_truth(capsys, here, count, message):
    here.val.write_bytes(tar_bytes(val_images(count)))
    line = fails(capsys, arguments(here))
    assert re.search(message, line)
    assert "ground truth has 7 lines" in line
    assert not here.out.exists()


@pytest.mark.parametrize(
    ("devkit", "message"),
    [
        ({"leave_out": "ground_truth"}, "holds no data/ILSVRC2012_validation_ground_truth.txt"),
        ({"leave_out": "meta.mat"}, "holds no data/meta.mat"),
        ({"truth": "1\n4\n"}, "ground_truth.txt, line 2: '4' is no class number"),  # 4 is above the classes
        ({"truth": "1\n2 x\n"}, "line 3: 'x' is no class number"),
        ({"truth": "\n"}, "is empty"),
        ({"meta": b"text"}, "meta.mat is no table of ILSVRC2012's synsets"),
        ({"meta": b""}, "meta.mat is no table of ILSVRC2012's synsets"),
    ],
)
def test_a_devkit_that_is_incomplete_or_damaged_is_told(capsys, here, devkit, message):
    write_devkit(here.devkit, **devkit)
    assert message in fails(capsys, arguments(here))
    assert not here.out.exists()


def test_a_devkit_that_is_no_archive_is_told(capsys, here):
    here.devkit.write_bytes(here.devkit.read_bytes()[:-50])
    assert f"{here.devkit} is no whole tar archive" in fails(capsys, arguments(here))
    assert "nowhere: no such folder or archive" in fails(capsys, [*arguments(here, "val"), "--devkit", "nowhere"])


def kaggle(here) -> list[str]:
    """Write the validation images as Kaggle has them: a flat folder, and a table of classes with boxes."""
    folder = here.out.parent / "CLS-LOC" / "val"
    folder.mkdir(parents=True)
    lines = ["ImageId,PredictionString"]
    for (name, content), number in reversed(list(zip(val_images().items(), TRUTH, strict=True))):
        (folder / name).write_bytes(content)
        wnid = WNIDS[number - 1]
        lines.append(f"{name.removesuffix('.JPEG')},{wnid} 85 1 499 272 {wnid} 3 5 16 17 ")
    solution = here.out.parent / "LOC_val_solution.csv"
    solution.write_text("\n".join(lines) + "\n")
    return ["data", "imagenet", "--val-folder", str(folder), "--val-solution", str(solution), "--out", str(here.out)]


def test_kaggles_folder_and_table_serve_for_val(capsys, here):
    argv = kaggle(here)
    assert main(argv) == 0
    wanted = {name: content for name, content in EXPECTED.items() if name.startswith("val/")}
    assert contents(here.out) == wanted
    assert "LOC_val_solution.csv says" in capsys.readouterr().out
    shutil.rmtree(here.out)
    assert main(["data", "imagenet", "--val-tar", str(here.val), *argv[4:]]) == 0  # the table serves for the archive too
    assert contents(here.out) == wanted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ILSVRC2012_val_00000001,", "is not an image and its class"),
        ("ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01443537 1 2 3 4", "is not an image and its class"),
        ("ILSVRC2012_val_00000002,n01440764 1 2 3 4", "ILSVRC2012_val_00000002 comes twice"),
        ("ILSVRC2012_val_00000008,n01440764 1 2 3 4", "ILSVRC2012_val_00000008.JPEG is missing"),
        ("../../etc/passwd,n01440764 1 2 3 4", "is not an image and its class"),
    ],
)
def test_a_table_of_kaggles_that_makes_no_sense_is_told_by_its_line(capsys, here, line, message):
    argv = kaggle(here)
    with Path(argv[5]).open("a") as file:
        file.write(line + "\n")
    assert message in fails(capsys, argv)
    assert not here.out.exists()


def test_the_devkit_numbers_classes_and_counts_their_images(here):
    devkit = read_devkit(here.devkit)
    assert devkit.train_images == TRAIN
    assert devkit.val_wnids == tuple(WNIDS[n - 1] for n in TRUTH)


def test_too_little_disk_is_told_before_anything_is_written(capsys, monkeypatch, here):
    def usage(free):
        monkeypatch.setattr("ditcnn.data.imagenet_folders.shutil.disk_usage", lambda place: SimpleNamespace(free=free))

    usage(1000)
    line = fails(capsys, arguments(here))
    assert f"{here.out} needs about 0.0 GiB more for train and val, and 0.0 GiB are free" in line
    assert not here.out.exists()
    inner = sum(len(tar_bytes(train_images(wnid))) for wnid in WNIDS)
    usage(int(inner * 1.02) - 1)
    assert "for train," in fails(capsys, arguments(here, "train"))
    usage(int(inner * 1.02))
    assert main(arguments(here, "train")) == 0
    usage(0)  # what is there needs no room
    assert main(arguments(here, "train")) == 0


def test_folders_that_were_not_made_of_the_archive_are_refused_and_left_alone(capsys, here):
    main(arguments(here, "train"))
    capsys.readouterr()
    (here.out / "train" / "n01440764" / "n01440764_0.JPEG").unlink()
    assert "n01440764 holds 2 files, and the devkit says 3" in fails(capsys, arguments(here, "train"))
    shutil.rmtree(here.out / "train" / "n01440764")
    before = contents(here.out)
    assert "train lacks 1 of the archive's 3 classes (n01440764 first)" in fails(capsys, arguments(here, "train"))
    (here.out / "train" / "cats").mkdir()
    assert "train/cats is none of the archive's classes" in fails(capsys, arguments(here, "train"))
    assert contents(here.out) == before


def test_bad_flags_are_told_in_one_line(capsys, here, tmp_path):
    out = ["--out", str(here.out)]
    assert "ditcnn data prepares imagenet, not 'imagnet'. Did you mean imagenet?" in fails(capsys, ["data", "imagnet"])
    assert "name an archive with --train-tar or --val-tar, or a folder" in fails(capsys, ["data", "imagenet", *out])
    assert "--val-tar needs --devkit" in fails(capsys, ["data", "imagenet", "--val-tar", str(here.val), *out])
    assert "--out" in fails(capsys, ["data", "imagenet", "--train-tar", str(here.train)])
    missing = ["data", "imagenet", "--train-tar", str(tmp_path / "nowhere.tar"), *out]
    assert "nowhere.tar: no such file" in fails(capsys, missing)
    assert "is a file; --out must name a folder" in fails(capsys, [*arguments(here, "val"), "--out", str(here.val)])
    assert not here.out.exists()


def test_data_alone_prints_its_usage(capsys):
    assert main(["data"]) == 0
    assert "ditcnn data imagenet --train-tar T" in capsys.readouterr().out
