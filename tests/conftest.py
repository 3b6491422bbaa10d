"""The fixtures of the tests: here of tiny models and dictionaries; `fixtures_*.py` beside this file
hold those of the engine, the service and the browser. What takes long to import is imported where
it is used: the process that hands the tests to others needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tiny import Planted
    from transformers import PreTrainedTokenizerFast

    from dictionaries.dictionary import Dictionary

pytest_plugins = ["fixtures_engine", "fixtures_service", "fixtures_browser"]
pytest.register_assert_rewrite("prefix_engines")  # whose asserts show what they compared

LONGEST = {
    *("test_engine_compiled", "test_cli_process", "test_engine", "test_engine_prefix"),
    *("test_making_describe_resume", "test_making_evaluate", "test_making_following"),
    *("test_making_foghorn", "test_making_sheets", "test_readme", "test_ui_chat"),
    *("test_ui_trouble", "test_benchmark"),
    *("test_e2e_edges", "test_e2e_foghorn", "test_e2e_hands", "test_e2e_page", "test_e2e_steering"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: begun last, one would keep a single worker busy."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    from tiny import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    from tiny import tiny_model

    return tiny_model


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where a law must hold that takes a model there: on the CPU it proves its own test."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    return str(request.param)


@pytest.fixture(scope="session")
def make_dictionary(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dictionary]:
    """A small random SAE in SAELens' format, written to disk and opened like any other."""
    from tiny import D_MODEL, write_sae

    from dictionaries.formats import open_dictionary

    def make(
        id: str = "tiny",
        *,
        layer: int = 1,
        hook: str = "resid_post",
        architecture: str = "jumprelu",
        d_in: int | None = None,
        normalize: str = "none",
        seed: int = 3,
    ) -> Dictionary:
        folder = tmp_path_factory.mktemp("sae") / id
        width = D_MODEL if d_in is None else d_in
        write_sae(folder, layer, hook, architecture, width, normalize, seed)
        return open_dictionary(folder, id=id)

    return make


@pytest.fixture(scope="session")
def dictionary(make_dictionary: Callable[..., Dictionary]) -> Dictionary:
    """At layer 1 of the tiny models, JumpReLU."""
    return make_dictionary()


# --- A model in which steering provably works ---


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    from tiny import plant

    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def subject(planted: Planted) -> Any:
    from server.model_subject import ModelSubject

    site = planted.dictionary.info.site
    return ModelSubject(planted.model, planted.tokenizer, site, planted.dictionary)


@pytest.fixture(scope="module")
def speaker(planted: Planted) -> Iterator[Any]:
    from server.speaker import EngineSpeaker

    made = EngineSpeaker(planted.model, planted.tokenizer, planted.dictionary, rows=32, context=96)
    yield made
    made.close()
