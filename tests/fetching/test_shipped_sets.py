"""Each shipped set is fetched from a server on this machine, in its source's format, and read by its task."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from command_line import Answer, lavo_bench
from miniatures import MINIATURES, Miniature, listing_page, shrunk
from misbehaving_server import Site, saying, whole

from benchmark import registry
from benchmark.fetching import prepare
from benchmark.fetching.manifest import DataSet, read_manifest

SHIPPED = {
    f"{task}/{name}": dataset
    for task in registry.TASKS
    for name, dataset in read_manifest(registry.task_folder(task) / "sources.yaml").items()
}


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch):
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)


def serve(site: Site, small: Miniature, dataset: DataSet, root: Path) -> None:
    """Puts the files on the server, or into the data root if a person must fetch them."""
    for name, content in small.files.items():
        if any(source.name == name and not source.urls for source in dataset.files):
            (root / dataset.folder).mkdir(parents=True, exist_ok=True)
            (root / dataset.folder / name).write_bytes(content)
        else:
            site.page(name, whole(content))

    def listing(handler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        page = listing_page(small.files, query["prefix"][0], int(query.get("pageToken", ["0"])[0]), 2)
        saying(page, {"Content-Length": str(len(page))})(handler)

    site.page("listing", listing)


def made(root: Path) -> dict[str, bytes]:
    """The files of a data root without records and downloads."""
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if "/." not in f"/{name}"}


def use(monkeypatch, small: dict[str, DataSet]) -> None:
    """Lets the commands find these sets in the place of the shipped ones, by task/name."""
    monkeypatch.setattr(
        prepare,
        "manifest_of",
        lambda task: {name.partition("/")[2]: one for name, one in small.items() if name.startswith(f"{task}/")},
    )


def prepared(task: str, root: Path, tmp_path: Path, *more: object) -> Answer:
    folders = ["--data-root", root, "--cache", tmp_path / "cache"]
    return lavo_bench("prepare", task, "--preset", "smoke", *folders, *more)


READ = {  # sets whose miniatures a task reads as they are; the others only have the layout
    "language_modeling/pg19": ["--set", "data.tokens=bytes"],
    "language_modeling/wikitext-103": [
        "--set",
        "data.tokens=bytes",
        "--set",
        "data.context_length=16",
        "--set",
        "eval.lengths=[1]",
    ],
    "text_to_speech/ljspeech": [],
    "summarization/scitldr": [],
    "summarization/multi_news": [],
    "point_cloud_completion/pcn": [],
    "point_cloud_completion/shapenet-55": [],
    "forecasting/etth1": [],
    "forecasting/etth2": [],
    "forecasting/ettm1": [],
    "forecasting/ettm2": [],
    "forecasting/exchange": [],
    "forecasting/electricity": [],
    "forecasting/ecl": [],
    "forecasting/wth": [],
    "forecasting/weather": [],
}


def test_every_shipped_set_has_its_miniature():
    assert set(MINIATURES) == set(SHIPPED)
    assert {"pg19", "wikitext-103", "ljspeech", "multi_news", "scitldr", "pcn", "shapenet-55", "etth1", "ettm1"} <= {
        name.partition("/")[2] for name in SHIPPED
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_set_is_fetched_placed_read_and_verified(name, site, tmp_path, monkeypatch):
    small, shipped, root = MINIATURES[name](), SHIPPED[name], tmp_path / "root"
    task, _, short = name.partition("/")
    dataset = shrunk(shipped, small, site.address)
    use(monkeypatch, {name: dataset})
    serve(site, small, dataset, root)
    by_hand = set(made(root))
    if name in READ:
        answer = prepared(task, root, tmp_path, "--name", short, "--accept-terms", *READ[name])
        assert answer.status == 0, answer.err
        assert "SHA-256" in answer.out.splitlines()[-1]
    else:
        answer = prepared(task, root, tmp_path, "--name", short)  # a vocabulary, with no texts to read
        assert answer.status == 0, answer.err
    found = made(root)
    assert {path: content for path, content in found.items() if path not in by_hand or path in small.made} == small.made
    verified = lavo_bench("data", "verify", root)
    assert verified.status == 0, verified.out
    assert verified.out.splitlines()[-1] == f"{root}: {len(small.made)} files compared, 0 differ"
    again = prepared(task, root, tmp_path, "--name", short, *READ.get(name, []))
    assert f"{short} is there already" in again.out
    assert len(site.asked) == len({one.path for one in site.asked})


def test_wikitext_is_cut_at_articles_and_nothing_is_lost(tmp_path):
    from tasks.language_modeling.conversions import wikitext

    small = MINIATURES["language_modeling/wikitext-103"]()
    source = tmp_path / "in" / "wikitext-103-raw"
    source.mkdir(parents=True)
    for path, content in small.made.items():
        (source / f"wiki.{Path(path).name.split('.')[1]}.raw").write_bytes(content)
    wikitext({"wikitext-103-raw-v1.zip": tmp_path / "in"}, tmp_path / "made", most_bytes=100)
    pieces = sorted((tmp_path / "made" / "lm" / "train").iterdir())
    texts = [piece.read_bytes() for piece in pieces]
    assert b"".join(texts) == small.made["lm/train/wiki.train.0000.txt"]
    titles = [b"Robert", b"A = B", b"7"]
    assert [text.lstrip(b" \n").startswith(b"= " + title) for title, text in zip(titles, texts, strict=True)] == [
        True
    ] * 3


def test_a_list_that_names_a_missing_cloud_is_refused(site, tmp_path, monkeypatch):
    name, root = "point_cloud_completion/pcn", tmp_path / "root"
    small = MINIATURES[name]()
    lost = small.files["PCN.json"].replace(b'"1d63"', b'"1d63", "1d64"')
    small = small._replace(files={**small.files, "PCN.json": lost})
    use(monkeypatch, {name: shrunk(SHIPPED[name], small, site.address)})
    serve(site, small, SHIPPED[name], root)
    answer = prepared("pcc", root, tmp_path, "--name", "pcn")
    assert answer.status == 2
    assert "ShapeNetCompletion.zip: has no test clouds of 02691156/1d64, which PCN.json names" in answer.err
    assert list(made(root)) == ["pcc/ShapeNetCompletion.zip"]


def test_several_names_are_read_one_after_the_other(site, tmp_path, monkeypatch):
    """The line of docs/data.md, in a data root without ETTh1.csv; where it lies too, it isn't read in their place."""
    names, root = ("forecasting/ettm1", "forecasting/weather"), tmp_path / "root"
    miniatures = {name: MINIATURES[name]() for name in names}
    small = {name: shrunk(SHIPPED[name], miniatures[name], site.address) for name in names}
    use(monkeypatch, small)
    for name in names:
        serve(site, miniatures[name], small[name], root)
    for _ in range(2):
        answer = prepared("forecasting", root, tmp_path, "--name", "ettm1,weather")
        assert answer.status == 0, answer.err
        read = [line.split(",")[0] for line in answer.out.splitlines() if line.startswith("forecasting/")]
        assert list(dict.fromkeys(read)) == ["forecasting/informer: ETTm1", "forecasting/informer: weather"]
        (root / "lstf" / "ETTh1.csv").write_text("not read")


def test_what_must_be_fetched_by_hand_ends_with_one_line(tmp_path):
    for task, short, words in (
        ("pcc", "pcn", ["ShapeNetCompletion.zip", "gateway.infinitescript.com", "put it into pcc/"]),
        ("pcc", "shapenet-55", ["ShapeNet55.zip", "drive.google.com", "put it into pcc/"]),
        ("lstf", "wth", ["WTH.csv", "drive.google.com", "put it into lstf/"]),
        ("sum", "multi_news", ["non-commercial", "--accept-terms"]),
    ):
        answer = prepared(task, tmp_path / "root", tmp_path, "--name", short)
        assert answer.status == 2
        assert answer.err.count("\n") == 1
        assert all(word in answer.err for word in words), answer.err
        assert not (tmp_path / "root").exists()


WRONG = {
    "an unknown name": (["lm", "--name", "pg20"], ["--name pg20", "pg19, wikitext-103, gpt2"]),
    "a task without sets": (["recall", "--name", "pg19"], ["recall has no public data set"]),
    "several tasks": (["lm", "sum", "--name", "pg19"], ["one TASK and --data-root"]),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_name_is_one_line(arguments, words, tmp_path):
    answer = prepared(arguments[0], tmp_path / "root", tmp_path, *arguments[1:])
    assert answer.status == 2
    assert all(word in answer.err for word in words), answer.err


def test_a_name_without_a_data_root_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("LAVO_BENCH_DATA", raising=False)
    answer = lavo_bench("prepare", "lm", "--name", "pg19", "--cache", tmp_path / "c")
    assert (answer.status, "--data-root" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("task", "setting", "wanted"),
    [
        ("lstf", "data.file=null", "forecasting/etth1"),
        ("lstf", "data.file=ETTh2.csv", "forecasting/etth2"),
        ("lstf", "data.file=exchange_rate.txt.gz", "forecasting/exchange"),
        ("tts", "data.folder=null", "text_to_speech/ljspeech"),
        ("tts", "data.folder=LJSpeech-1.1", "text_to_speech/ljspeech"),
        ("tts", "data.folder=mine", None),
        ("sum", "data.name=auto", "summarization/scitldr"),
        ("sum", "data.name=scitldr", "summarization/scitldr"),
        ("sum", "data.name=qmsum", None),
        ("lm", "data.tokens=gpt2", "language_modeling/gpt2"),
        ("lm", "data.tokens=bytes", None),
    ],
)
def test_prepare_fetches_what_the_settings_need_and_no_more(task, setting, wanted, site, tmp_path, monkeypatch):
    """The server has no page, so the first file that is asked for ends the command."""
    small = {name: shrunk(dataset, MINIATURES[name](), f"{site.address}/{name}") for name, dataset in SHIPPED.items()}
    use(monkeypatch, small)
    answer = prepared(task, tmp_path / "root", tmp_path, "--set", setting)
    assert answer.status == 2
    assert [one.path.startswith(f"/{wanted}/") for one in site.asked] == ([True] if wanted else [])


@pytest.mark.parametrize("place", ["in the data root", "a path"])
def test_prepare_of_an_own_series_fetches_nothing(place, site, tmp_path, monkeypatch):
    use(monkeypatch, {name: shrunk(one, MINIATURES[name](), site.address) for name, one in SHIPPED.items()})
    folder = tmp_path / "root" / "lstf" if place == "in the data root" else tmp_path / "elsewhere"
    folder.mkdir(parents=True)
    rows = [f"2016-07-{1 + i // 24:02d} {i % 24:02d}:00:00,{i % 24},{i % 12}" for i in range(500)]
    (folder / "e.csv").write_text("\n".join(["date,a,b", *rows]) + "\n", encoding="utf-8")
    (tmp_path / "root").mkdir(exist_ok=True)
    file = "e.csv" if place == "in the data root" else folder / "e.csv"
    answer = prepared("lstf", tmp_path / "root", tmp_path, "--set", f"data.file={file}")
    assert answer.status == 0, answer.err
    assert answer.out.startswith("forecasting/informer: e, train ")
    assert site.asked == []
