"""Which feature carries which concept, by what steering it did."""

from __future__ import annotations

from dictionaries.making.concepts import assigned


def test_the_strongest_effect_chooses_first_and_no_feature_stands_for_two() -> None:
    effects = {("a", 1): 0.5, ("a", 2): 0.4, ("b", 1): 0.9, ("b", 2): 0.8}
    assert assigned(effects, {}, lambda slug, feature: 0.0) == {"b": 1, "a": 2}


def test_without_effects_the_feature_that_fires_on_the_concept_is_taken() -> None:
    effects = {("a", 1): 0.0, ("a", 2): 0.0, ("a", 3): 0.0}
    assert assigned(effects, {}, lambda slug, feature: feature == 2) == {"a": 2}


def test_an_effect_counts_for_more_than_firing() -> None:
    effects = {("a", 1): 0.1, ("a", 2): 0.0}
    assert assigned(effects, {}, lambda slug, feature: feature == 2) == {"a": 1}


def test_a_concepts_own_feature_gives_way_only_to_a_much_stronger_one() -> None:
    effects = {("a", 1): 0.6, ("a", 2): 0.8}
    assert assigned(effects, {"a": 1}, lambda slug, feature: 0.0) == {"a": 1}
    effects["a", 2] = 0.9
    assert assigned(effects, {"a": 1}, lambda slug, feature: 0.0) == {"a": 2}
