"""A feature's details as HTML: every text in it is escaped here, labels and tokens are hostile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from .assets import drawn

MOST_EXAMPLES = 16
WIDTH, HEIGHT = 360, 96  # of the histogram, in SVG units


def html(feature: Mapping[str, Any]) -> str:
    """The card of a feature of the API; absent facts are left out.

    Its last element is empty: card.js puts `nearest` there when that has come.
    """
    ref = escape(str(feature.get("ref", "")))
    return "".join(
        (
            f"<p class='sd-over'>Feature {ref}</p>",
            f"<h2 dir='auto'>{escape(str(feature.get('label') or 'No label'))}</h2>",
            f'<button class="sd-add" data-add="{ref}">Add to the rack</button>',
            _facts(feature),
            _section("How strongly it fires", _histogram(feature)),
            _section("Makes these tokens likelier", _logits(feature.get("promoted_logits"))),
            _section("Makes these tokens less likely", _logits(feature.get("suppressed"))),
            _section("Where it fires most", _examples(feature.get("examples"))),
            "<div class='sd-nearest'></div>",
        )
    )


def nearest(neighbours: Sequence[Mapping[str, Any]]) -> str:
    """The card's list of similar features, as the API tells them."""
    return _section("Nearest features", _neighbours(neighbours))


def refused(told: str) -> str:
    """What stands in the card's place where the service does not tell of the feature."""
    return f"<h2>No details</h2><p role='alert'>{escape(told)}</p>"


def _facts(feature: Mapping[str, Any]) -> str:
    facts = []
    if _is_number(feature.get("density")):
        facts.append(("fires on", f"{100 * feature['density']:.2g} % of tokens"))
    if _is_number(feature.get("maximum")):
        facts.append(("maximum", f"{feature['maximum']:.3g}"))
    band = feature.get("band")
    if isinstance(band, list) and len(band) == 2 and all(map(_is_number, band)):
        facts.append(("safe band", f"{band[0]:g}× to {band[1]:g}×"))
    if _is_number(feature.get("output_score")):
        facts.append(("output score", f"{feature['output_score']:.2g}"))
    if feature.get("slug"):
        facts.append(("name", str(feature["slug"])))
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f"<dl class='sd-facts'>{cells}</dl>" if cells else ""


def _section(title: str, inner: str) -> str:
    return f"<section><h3>{title}</h3>{inner}</section>" if inner else ""


def _histogram(feature: Mapping[str, Any]) -> str:
    """Bars of log counts: activations are rare and their tail is what steering reaches into."""
    told = feature.get("histogram") or {}
    counts, edges = told.get("counts") or [], told.get("edges") or []
    if not counts or len(edges) != len(counts) + 1:
        return ""
    logs = [math.log1p(max(count, 0)) for count in counts]
    top, step = max(logs) or 1, WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{HEIGHT - HEIGHT * log / top:.1f}" width="{step - 1.5:.1f}"'
        f' height="{HEIGHT * log / top:.1f}" rx="1"><title>{edges[i]:.3g} to {edges[i + 1]:.3g}:'
        f" {int(counts[i])} tokens</title></rect>"
        for i, log in enumerate(logs)
    )
    return (
        f'<svg class="sd-histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="Histogram of activations, counts on a log scale">{bars}</svg>'
        f"<p class='sd-axis'><span>{edges[0]:.3g}</span><span>activation, log counts</span>"
        f"<span>{edges[-1]:.3g}</span></p>"
    )


def _logits(pairs: object) -> str:
    if not isinstance(pairs, list) or not pairs:
        return ""
    told = [(str(pair.get("token", "")), float(pair.get("logit") or 0)) for pair in pairs[:10]]
    top = max(abs(logit) for _, logit in told) or 1
    return "<ul class='sd-logits'>{}</ul>".format(
        "".join(
            f"<li><code>{escape(shown(token))}</code>"
            f'<i style="width:{100 * abs(logit) / top:.0f}%"></i><b>{logit:+.2f}</b></li>'
            for token, logit in told
        )
    )


def _examples(examples: object) -> str:
    """Texts with each token shaded by its activation, relative to the strongest of the example;
    over those that were picked among weaker ones it says how strong."""
    if not isinstance(examples, list):
        return ""
    told, before = [], examples[0].get("interval") if examples else None
    for example in examples[:MOST_EXAMPLES]:
        values = example.get("activations") or []
        interval = example.get("interval")
        if interval != before and isinstance(interval, list) and all(map(_is_number, interval)):
            low, high = interval
            told.append(f"<p class='sd-over'>activation {low:.3g} to {high:.3g}</p>")
        before = interval
        top = max(values, default=0) or 1
        told.append(
            "<p class='sd-example'>{}</p>".format(
                "".join(
                    f'<span style="--a:{max(value, 0) / top:.2f}" title="{value:.3g}">'
                    f"{escape(str(token))}</span>"
                    for token, value in zip(example.get("tokens") or [], values, strict=False)
                )
            )
        )
    return "".join(told)


def _neighbours(neighbours: Sequence[Mapping[str, Any]]) -> str:
    if not neighbours:
        return ""
    return "<ul class='sd-near'>{}</ul>".format(
        "".join(
            f'<li><button data-look="{escape(str(one.get("ref", "")))}">'
            f"{escape(str(one.get('label') or one.get('ref')))}</button>"
            f"<b>{one.get('cosine') or 0:.2f}</b></li>"
            for one in neighbours
        )
    )


def shown(token: object) -> str:
    """A token as it reads in a list: spaces and line ends made visible."""
    return str(token).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def widget() -> gr.HTML:
    """The details drawer. Its value is {ref, html: html(…), wants, n: a number that makes it a new
    value}, and where `wants` asked for them, {ref, near: nearest(…), n}.

    Events: `take` ({ref}), `look` ({ref}), `near` ({ref}).
    """
    template = (
        '<div class="sd-card" aria-label="Feature details"><button type="button"'
        ' class="sd-close" data-close aria-label="Close details">×</button>'
        '<div class="sd-card-body"></div></div>'
    )
    return drawn("card", {}, template, "card.js")
