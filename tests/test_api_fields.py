"""What clients of other servers send: what means nothing is let pass, what does is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server.schemas.requests import ChatRequest

USER = [{"role": "user", "content": "a"}]


def asked(**fields):
    return ChatRequest.model_validate({"messages": USER, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"top_p": 0},
        {"top_k": -1},
        {"max_tokens": -1, "max_completion_tokens": -1},
        {"stop": ""},
        {"stop": [""]},
        {"top_a": 0, "temperature_last": False, "dry_multiplier": 0.0, "xtc_probability": 0},
        {"presence_penalty_range": 0, "mirostat": 0, "top_n_sigma": 0, "typical_p": 1.0},
        {"mode": "instruct", "models": ["a", "b"], "do_sample": True, "num_predict": -1},
        {"stop_sequences": [], "stopping_strings": [], "documents": [], "safe_prompt": False},
        {"no_repeat_ngram_size": 0, "min_length": 0, "include_stop_str_in_output": False},
    ],
)
def test_a_value_that_means_nothing_is_let_pass(fields):
    assert asked(**fields).stops == ()


def test_the_words_for_no_bound_mean_it():
    assert asked(top_k=-1).top_k == 0
    assert asked(max_tokens=-1).limit is None
    assert asked(max_tokens=-1, max_completion_tokens=7).limit == 7
    assert asked(stop=["", "x"]).stops == ("x",)


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("max_output_tokens", 5, "max_completion_tokens"),
        ("n_predict", 5, "max_completion_tokens"),
        ("num_predict", 5, "max_completion_tokens"),
        ("max_length", 5, "max_completion_tokens"),
        ("stop_sequences", ["x"], "stop"),
        ("stopping_strings", ["x"], "stop"),
        ("random_seed", 1, "seed"),
        ("do_sample", False, "temperature 0"),
        ("system", "Be kind.", "a message of role system"),
        ("options", {"seed": 1}, "the root"),
        *(
            (name, value, "leave it out")
            for name, value in {
                "top_a": 0.1,
                "temperature_last": True,
                "include_stop_str_in_output": True,
                "mirostat": 2,
                "xtc_probability": 0.5,
                "dry_multiplier": 0.8,
                "top_n_sigma": 1.0,
                "no_repeat_ngram_size": 3,
                "min_length": 4,
                "enable_thinking": False,
                "documents": [{}],
                "safe_prompt": True,
            }.items()
        ),
    ],
)
def test_a_value_that_would_change_the_reply_is_refused_with_what_is_meant(field, value, meant):
    with pytest.raises(ValidationError) as refused:
        asked(**{field: value})
    (error,) = refused.value.errors()
    assert error["ctx"]["param"] == field
    assert error["msg"].startswith(field)
    assert meant in error["msg"].removeprefix(field)
