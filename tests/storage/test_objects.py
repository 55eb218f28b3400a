import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from deepprofile.storage import conditional_writes, filesystems, objects, retries
from deepprofile.storage.conditional_writes import PreconditionFailedError, read_versioned, replace, storage_time
from deepprofile.storage.filesystems import join
from deepprofile.storage.objects import (
    copy_objects,
    exists,
    list_children,
    listing,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
)
from deepprofile.storage.retries import StorageUnavailableError, is_transient, retry_async, retry_budget, retry_sync

from tests.support.object_storage import Proxy, emulator


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(retries, "LONGEST_PAUSE_SECONDS", 0.05)


def test_objects_are_read_as_they_were_written(anywhere):
    assert read_bytes(join(anywhere, "a")) is None
    write_bytes(join(anywhere, "b/a"), b"1")
    write_json(join(anywhere, "b/c.json"), {"x": 1})
    assert read_bytes(join(anywhere, "b/a")) == b"1"
    assert read_json(join(anywhere, "b/c.json")) == {"x": 1}
    assert exists(join(anywhere, "b/a"))
    assert exists(join(anywhere, "b"))
    assert not exists(join(anywhere, "c"))
    assert list_children(join(anywhere, "b")) == ["a", "c.json"]
    assert list_children(join(anywhere, "d")) == []
    write_bytes(join(anywhere, "b/a"), b"22")
    found = listing(anywhere)
    assert [(entry["url"].rsplit("/", 1)[-1], entry["size"]) for entry in found] == [("a", 2), ("c.json", 12)]
    assert len(listing(join(anywhere, "b/*.json"))) == 1


def test_objects_are_copied_and_what_is_not_there_is_removed(anywhere):
    write_bytes(join(anywhere, "old/a"), b"1")
    write_bytes(join(anywhere, "new/b"), b"2")
    copy_objects(join(anywhere, "old"), join(anywhere, "new"), ["a", "b", "c"])
    assert read_bytes(join(anywhere, "new/a")) == b"1"
    assert not exists(join(anywhere, "new/b"))


@pytest.mark.parametrize("kind", ["local", "gs", "memory"])
def test_an_object_is_replaced_only_if_it_is_what_was_read(kind, tmp_path, request):
    url = {"local": str(tmp_path), "memory": f"memory://{tmp_path.name}"}.get(kind) or request.getfixturevalue("bucket")
    url = join(url, "pointer.json")
    before = read_versioned(url)
    assert before.content is None
    first = replace(url, b"1", before.generation)
    assert read_versioned(url) == first
    with pytest.raises(PreconditionFailedError):
        replace(url, b"2", before.generation)
    # The same content written once more is another generation.
    second = replace(url, b"1", first.generation)
    assert second.generation != first.generation
    with pytest.raises(PreconditionFailedError):
        replace(url, b"3", first.generation)
    assert replace(url, b"3", second.generation).content == b"3"
    assert storage_time(url + ".clock") >= second.written


def test_of_many_who_replace_an_object_at_once_one_wins(anywhere):
    url = join(anywhere, "pointer.json")
    generation = replace(url, b"start", read_versioned(url).generation).generation
    won, lost = [], []

    def race(number):
        try:
            replace(url, str(number).encode(), generation)
            won.append(number)
        except PreconditionFailedError:
            lost.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert read_versioned(url).content == str(won[0]).encode()


def test_a_replacement_whose_answer_was_lost_is_read_back(storage_server, bucket, impatient):
    """The server has taken it, the answer is cut off, and the repetition meets a newer generation: its own."""
    url = bucket + "/pointer.json"
    proxy = Proxy(storage_server, 0.5, seed=3, faults=("reset after", "truncate"))
    with emulator(proxy.url):
        stamped = read_versioned(url)
        for number in range(20):
            stamped = replace(url, str(number).encode(), stamped.generation)
    proxy.close()
    assert proxy.counts["reset after"] + proxy.counts["truncate"] > 10
    assert read_versioned(url) == stamped
    assert stamped.content == b"19"


class Answer(Exception):
    def __init__(self, code):
        super().__init__(f"answer {code} token=abc")
        self.code = code


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_answers_that_pass(code):
    assert is_transient(Answer(code))


@pytest.mark.parametrize(
    "error", [Answer(400), Answer(403), Answer(404), Answer(412), FileNotFoundError("x"), ValueError("x"), PermissionError("x")]
)
def test_answers_that_stay(error):
    assert not is_transient(error)


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), BrokenPipeError()])
def test_lost_connections_pass(error):
    assert is_transient(error)


def test_repetitions_are_counted_and_share_one_budget(impatient):
    async def fail(times, calls):
        calls.append(1)
        if len(calls) <= times:
            raise Answer(503)
        return len(calls)

    async def together():
        lists = [[] for _ in range(4)]
        return await asyncio.gather(*(retry_async(lambda calls=calls: fail(3, calls)) for calls in lists))

    with retry_budget(10) as budget:
        assert asyncio.run(together()) == [4, 4, 4, 4]
    assert budget.retries == 12
    assert 0 < 10 - budget.left < 1

    with retry_budget(0.2) as budget:
        began = time.monotonic()
        with pytest.raises(StorageUnavailableError, match=r"has not answered for 0 s .*answer 503 token=\.\.\."):
            retry_sync(lambda: (_ for _ in ()).throw(Answer(503)))
        assert time.monotonic() - began < 1
        # What is left of the budget is little: the next failure ends at once.
        assert budget.left < 0.06


def test_time_without_a_failing_request_costs_nothing(impatient):
    with retry_budget(10) as budget:
        calls = []
        retry_sync(lambda: calls.append(1) or (_ for _ in ()).throw(Answer(500)) if not calls else None)
        left = budget.left
        time.sleep(0.05)
        assert budget.left == left


def test_a_storage_that_is_down_is_said_with_its_last_answer(storage_server, bucket, impatient):
    proxy = Proxy(storage_server, 1.0, faults=("503",))
    with (
        emulator(proxy.url),
        retry_budget(0.3),
        pytest.raises(StorageUnavailableError, match=r"object storage has not answered for .*not now"),
    ):
        read_bytes(bucket + "/a")
    proxy.close()


def test_no_credentials_where_none_are_wanted(monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("DEEPPROFILE_STORAGE_CREDENTIALS", "anonymous")
    fs, path = filesystems.filesystem("gs://public/data")
    assert (fs.credentials.method, path) == ("anon", "public/data")


ODD = ["a b", "a[0.1deg]", "a#1", "a%20b", "a?b=1", "a::b", "données", "[x]"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_is_what_its_name_says(tmp_path, name):
    folder = tmp_path / name / "below"
    folder.mkdir(parents=True)
    (folder / "one.nc").write_bytes(b"123")
    url = str(tmp_path / name)
    expected = [(str(folder / "one.nc"), 3)]
    assert [(entry["url"], entry["size"]) for entry in objects.listing(url)] == expected
    assert [(entry["url"], entry["size"]) for entry in objects.listing(url + "/below/*.nc")] == expected
    assert filesystems.local_path(url) == filesystems.local_path("file://" + url) == url
    objects.write_bytes(url + "/two", b"2")
    assert read_bytes(url + "/two") == b"2"
    assert objects.list_children(url) == ["below", "two"]
    assert objects.exists(url)


def test_brackets_are_a_pattern_where_nothing_has_that_name(tmp_path):
    for name in ("day1.nc", "day2.nc", "day3.nc"):
        (tmp_path / name).touch()
    found = objects.listing(f"{tmp_path}/day[12].nc")
    assert [entry["url"] for entry in found] == [f"{tmp_path}/day1.nc", f"{tmp_path}/day2.nc"]


def test_the_project_that_pays_is_named_in_the_environment(monkeypatch):
    monkeypatch.setenv("DEEPPROFILE_STORAGE_CREDENTIALS", "anonymous")
    monkeypatch.setenv("DEEPPROFILE_REQUESTER_PAYS", "payer")
    assert filesystems.filesystem("gs://readers-pay/data")[0].requester_pays == "payer"
    monkeypatch.delenv("DEEPPROFILE_REQUESTER_PAYS")
    assert not filesystems.filesystem("gs://readers-pay/data")[0].requester_pays


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        (
            "gs://b/x",
            ValueError("Bucket is a requester pays bucket"),
            "b is requester pays: .*DEEPPROFILE_REQUESTER_PAYS",
        ),
        ("s3://b/x", ImportError("Install s3fs"), "install what reads s3://"),
        ("s3://b/x", PermissionError("denied"), "s3:// needs credentials"),
        ("https://h/x?token=abc", OSError("no"), r"^https://h/x\?token=\.\.\. cannot be read: OSError: no$"),
    ],
)
def test_what_a_file_system_raises_is_one_message(url, error, said):
    with pytest.raises(StorageUnavailableError, match=said), objects.explained_errors(url):
        raise error


def test_what_several_change_at_the_same_time_is_changed_by_all(anywhere):
    url = join(anywhere, "count.json")

    def count(_):
        for _ in range(5):
            conditional_writes.update(url, lambda content: str(int(content or b"0") + 1).encode())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    assert read_bytes(url) == b"20"
