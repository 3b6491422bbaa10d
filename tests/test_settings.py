"""Settings: where they come from, what is refused, and with which words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server.schemas.steering import MAX_EDITS
from server.settings import Settings, read_settings, strangers


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("STEERDECK_")]:
        monkeypatch.delenv(name)


def test_an_option_beats_the_environment_and_the_environment_the_default(monkeypatch):
    assert Settings().port == 8000
    monkeypatch.setenv("STEERDECK_PORT", "9000")
    assert read_settings().port == 9000
    assert read_settings(port=None).port == 9000
    assert read_settings(port=9001).port == 9001


def test_lists_are_comma_separated(monkeypatch):
    monkeypatch.setenv("STEERDECK_API_KEYS", "one, two,,")
    monkeypatch.setenv("STEERDECK_DICTIONARY", "a/b,/c d")
    settings = read_settings()
    assert settings.keys == ("one", "two")
    assert settings.dictionary == ("a/b", "/c d")


def test_an_empty_variable_is_none_at_all(monkeypatch):
    monkeypatch.setenv("STEERDECK_API_KEYS", "")
    monkeypatch.setenv("STEERDECK_MAX_CONTEXT", "")
    assert read_settings().keys == ()
    assert read_settings().max_context is None


def test_settings_do_not_change_and_do_not_show_keys():
    settings = Settings(api_keys="hush")
    with pytest.raises(ValidationError):
        settings.port = 1
    assert "hush" not in repr(settings) + str(settings.model_dump())


def test_a_reply_has_no_more_edits_than_its_receipt_can_replay():
    assert Settings(max_edits=MAX_EDITS).max_edits == MAX_EDITS
    with pytest.raises(ValidationError):
        Settings(max_edits=MAX_EDITS + 1)


def test_a_home_that_is_nobodys_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="~nobody-here/x begins with the home of somebody unknown"):
        read_settings(data_dir="~nobody-here/x")


def test_so_is_that_there_is_none(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # raises KeyError, as for a uid unknown
    with pytest.raises(ValueError, match=r"STEERDECK_DATA_DIR: .*the home of somebody unknown"):
        read_settings()


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="prot"):
        read_settings(prot=9000)


def test_each_wrong_value_is_one_line_naming_where_it_came_from(monkeypatch):
    monkeypatch.setenv("STEERDECK_MAX_ROWS", "many")
    with pytest.raises(ValueError, match="integer") as caught:
        read_settings(port=70000)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("--port: ")
    assert "65535" in lines[0]
    assert lines[1].startswith("STEERDECK_MAX_ROWS: ")


def test_a_misspelt_variable_is_told():
    assert strangers({"STEERDECK_MAX_ROW": "3", "OTHER": "x"}) == [
        "STEERDECK_MAX_ROW is set but is not a setting; is STEERDECK_MAX_ROWS meant?"
    ]
    known = {"STEERDECK_PORT": "1", "STEERDECK_URL": "x", "STEERDECK_API_KEY": "k"}
    assert strangers({**known, "STEERDECK_API_KEYS": "k"}) == []
    (told,) = strangers(known)
    assert "STEERDECK_API_KEYS, which is not set" in told


@pytest.mark.parametrize(
    ("options", "open_to_all"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "127.8.9.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "192.168.1.5"}, True),
        ({"host": "::"}, True),
        ({"host": "deck.example"}, True),
        ({"host": "0.0.0.0", "api_keys": "k"}, False),
        ({"host": "0.0.0.0", "allow_open": True}, False),
    ],
)
def test_an_address_others_reach_needs_a_key_or_a_word(options, open_to_all):
    assert (Settings(**options).too_open is not None) is open_to_all
    if open_to_all:
        assert "STEERDECK_API_KEYS" in Settings(**options).too_open
        assert "--allow-open" in Settings(**options).too_open
        assert "STEERDECK_ALLOW_OPEN" in Settings(**options).too_open


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_says_what_it_is(name):
    assert Settings.model_fields[name].description
