"""What the hub refuses, and a hub that is not there: the real command ends with one sentence that says what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import STRANGER, TOKEN, Command, Ended
from tests.hub.repositories import CODE, GATED_ROWS, LLAMA, NEWS, PICKLED, TEST_ONLY
from tests.hub.server import Hub, serving

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
LATER = "set HF_HUB_OFFLINE=1 to work with what was downloaded before"


@dataclass(frozen=True)
class Refusal:
    """Overrides and environment of a run; the status and message it ends with ({url} is the hub's)."""

    message: str
    overrides: tuple[str, ...] = ()
    environment: dict[str, str | None] = field(default_factory=dict)
    status: int = 4


def rows(message: str, *overrides: str, **environment: str | None) -> Refusal:
    """Of a data set; the base is the embedded one."""
    return Refusal(message, ("model.model_name_or_path=seedling", *overrides), environment, status=3)


CODE_SET = f"the data set {CODE}"
REFUSALS = {
    "no token": Refusal(
        f"the model {LLAMA} is gated: accept its licence at {{url}}/{LLAMA}, then {LOG_IN}",
        environment={"HF_TOKEN": None},
    ),
    "licence not accepted": Refusal(
        f"the model {LLAMA} is gated and your token may not read it: ask for access at {{url}}/{LLAMA}, with the "
        "token's account",
        environment={"HF_TOKEN": STRANGER},
    ),
    "token not valid": Refusal(
        f"the hub refuses your token: {LOG_IN} to a valid one ({{url}}/settings/tokens)",
        environment={"HF_TOKEN": "hf_expired"},
    ),
    "token of the recipe not valid": Refusal(
        f"the hub refuses your token: {LOG_IN} to a valid one ({{url}}/settings/tokens)",
        ("model.token=hf_expired",),
    ),
    "unknown model": Refusal(
        f"the model meta-llama/Llama-2-7b-caht-hf is no folder here and not on the hub: check the name; if it is "
        f"private, {LOG_IN}",
        ("model.model_name_or_path=meta-llama/Llama-2-7b-caht-hf",),
    ),
    "unknown model, no token": Refusal(
        f"the model someone/nothing is no folder here and not on the hub: check the name; if it is private, {LOG_IN}",
        ("model.model_name_or_path=someone/nothing",),
        {"HF_TOKEN": None},
    ),
    "unknown revision of the model": Refusal(
        f"the model {LLAMA} has no revision 'v9': give a branch, tag or commit of it as model.model_revision",
        ("model.model_revision=v9",),
    ),
    "unknown commit of the model": Refusal(
        f"the model {LLAMA} has no revision '{'1' * 40}': give a branch, tag or commit of it as model.model_revision",
        (f"model.model_revision='{'1' * 40}'",),
    ),
    "pickles only": Refusal(
        f"{PICKLED} has no *.safetensors; only this format is read: get the model again, or give another one",
        (f"model.model_name_or_path={PICKLED}",),
    ),
    "offline, nothing in the cache": Refusal(
        f"the model {LLAMA} at revision 'main' is not in the cache and HF_HUB_OFFLINE is set: unset it to download, "
        "or give a folder",
        environment={"HF_HUB_OFFLINE": "1"},
    ),
    "hub down": Refusal(
        f"the model {LLAMA} is no folder here and the hub at {{down}} cannot be reached ([Errno 111] Connection "
        f"refused): check the name and the network, or {LATER}",
        environment={"HF_ENDPOINT": "{down}"},
    ),
    "hub silent": Refusal(
        f"the model {LLAMA} is no folder here and the hub at {{silent}} cannot be reached (timed out): check the name "
        f"and the network, or {LATER}",
        environment={"HF_ENDPOINT": "{silent}", "HF_HUB_ETAG_TIMEOUT": "1"},
    ),
    "hub overloaded": Refusal(
        f"the hub answered 503 Service Unavailable when asked for the model {LLAMA}: try again later, or {LATER}",
        environment={"HF_ENDPOINT": "{overloaded}"},
    ),
    "not a hub": Refusal(
        "what answers at {portal} is not a hub: check HF_ENDPOINT, the proxy and the network",
        environment={"HF_ENDPOINT": "{portal}"},
    ),
    "gated rows, no token": rows(
        f"the data set {GATED_ROWS} is gated: accept its licence at {{url}}/datasets/{GATED_ROWS}, then {LOG_IN}",
        f"data.dataset_name={GATED_ROWS}",
        HF_TOKEN=None,
    ),
    "gated rows, licence not accepted": rows(
        f"the data set {GATED_ROWS} is gated and your token may not read it: ask for access at "
        f"{{url}}/datasets/{GATED_ROWS}, with the token's account",
        f"data.dataset_name={GATED_ROWS}",
        HF_TOKEN=STRANGER,
    ),
    "unknown data set": rows(
        "the data set someone/nothing is no folder here and not on the hub: check the name; if it is private, "
        f"{LOG_IN}",
        "data.dataset_name=someone/nothing",
    ),
    "unknown revision of the data set": rows(
        f"{CODE_SET} has no revision 'v9': give a branch, tag or commit of it as data.dataset_revision "
        "(revision in data.sources)",
        "data.dataset_revision=v9",
    ),
    "unknown configuration": rows(
        f"the data set {NEWS} has no configuration '9.9.9': set data.dataset_config_name (config in "
        "data.sources) to one of 1.0.0, 3.0.0",
        f"data.dataset_name={NEWS}",
        "data.dataset_config_name='9.9.9'",
    ),
    "no configuration chosen": rows(
        f"the data set {NEWS} has several configurations: set data.dataset_config_name (config in "
        "data.sources) to one of 1.0.0, 3.0.0",
        f"data.dataset_name={NEWS}",
    ),
    "no training split": rows(
        f"the data set {TEST_ONLY} has no training split (its splits: test; expected one of train, train_sft); choose "
        "another data set or configuration of it",
        f"data.dataset_name={TEST_ONLY}",
    ),
    "rows offline, nothing in the cache": rows(
        f"{CODE_SET} is not in the cache and HF_HUB_OFFLINE is set: unset it to download, or give a folder",
        HF_HUB_OFFLINE="1",
    ),
    "rows, hub down": rows(
        f"{CODE_SET} is no folder here and the hub at {{down}} cannot be reached ([Errno 111] Connection refused): "
        f"check the name and the network, or {LATER}",
        HF_ENDPOINT="{down}",
    ),
}
QUICK = (
    "no token", "licence not accepted", "token not valid", "unknown model", "unknown revision of the model",
    "offline, nothing in the cache", "hub down", "hub silent", "gated rows, no token",
)  # fmt: skip
CASES = [
    *(pytest.param("preview", name) for name in QUICK),
    *(pytest.param("finetune", name, marks=pytest.mark.slow) for name in REFUSALS),
]


@pytest.fixture(scope="module")
def places(hub: Hub) -> Iterator[dict[str, str]]:
    """The addresses of the hub, of others that are overloaded, no hub at all, not there, and that never answer."""
    overloaded, portal = Hub(hub.root, outage=503), Hub(hub.root, outage=200)
    with serving(overloaded), serving(portal), socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        down, mute = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (closed, silent))
        yield {
            "url": hub.url, "overloaded": overloaded.url, "portal": portal.url, "down": down, "silent": mute
        }  # fmt: skip


@pytest.fixture(scope="module")
def ended(
    command: Command, places: dict[str, str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[tuple[str, str], Future[Ended]]]:
    """The commands of the tests that were chosen, two at a time, each with a cache of its own."""
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    folder = tmp_path_factory.mktemp("refused")

    def run(number: int, verb: str, refusal: Refusal) -> Ended:
        home = {"HF_HOME": str(folder / f"home{number}")}
        given: dict[str, Any] = {key: text and text.format(**places) for key, text in refusal.environment.items()}
        words, run = ("data", "preview") if verb == "preview" else ("finetune",), str(folder / f"run{number}")
        arguments = "llama2-7b-code", *refusal.overrides, f"training.output_dir={run}"
        return command("neuralbot", *words, *arguments, **(home | given))

    with ThreadPoolExecutor(2) as pool:
        wanted = [(case["verb"], case["name"]) for case in chosen if case.keys() >= {"verb", "name"}]
        yield {case: pool.submit(run, number, case[0], REFUSALS[case[1]]) for number, case in enumerate(wanted)}
    assert not list(folder.glob("run*")), "a refused run leaves nothing behind"


@pytest.mark.parametrize(("verb", "name"), CASES)
def test_a_refusal_is_one_sentence(
    verb: str, name: str, ended: dict[tuple[str, str], Future[Ended]], places: dict[str, str]
) -> None:
    refusal, how = REFUSALS[name], ended[verb, name].result()
    assert how.message == f"error: {refusal.message.format(**places)}"
    assert how.status == refusal.status
    assert "Traceback" not in how.err
    assert "Retrying" not in how.err
    assert how.seconds < 60
    given = refusal.environment.get("HF_TOKEN", TOKEN)
    assert not any(token in how.out + how.err for token in (given, "hf_expired") if token)


@pytest.mark.slow
def test_rows_of_the_hub_that_are_gated_can_be_had(command: Command, tmp_path: Path) -> None:
    small = "training.max_steps=1", "training.do_eval=false", "data.validation_split_percentage=0"
    source = "model.model_name_or_path=seedling", f"data.dataset_name={GATED_ROWS}"
    ended = command("neuralbot.finetune", "llama2-7b-code", *small, *source, "--output-dir", str(tmp_path / "run"))
    assert ended.status == 0, ended.err
    assert f"{GATED_ROWS}/train: 40 rows" in ended.out
