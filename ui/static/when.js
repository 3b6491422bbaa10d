// When an edit acts: the fold under a feature that sets it, and what is set in a few words (those of ui/timing.py).
const unfolded = new Set(); // the features whose fold is open: a card may be drawn anew
const conditioned = ({ feature, op, value, unit }) => `${feature} ${op === "below" ? "<" : ">"} ${value}${unit === "raw" ? "" : "×"}`;
const timed = ({ when, abort, window: part, decay, thinking }) =>
  [
    when && `${when.latch ? "once" : "while"} ${conditioned(when)}`,
    part && (part.last === null ? `from token ${part.first ?? 0}` : `on tokens ${part.first ?? 0} to ${part.last}`),
    decay && `halved every ${decay} tokens`,
    thinking && (thinking === "only" ? "in thinking blocks only" : "outside of thinking blocks"),
    ...(abort || []).map((one) => `stops the reply when ${conditioned(one)}`),
  ].filter(Boolean).join(", ");

// The fold of an entry; others: all of the rack. changed(anew): the entry was; anew: its card must be drawn anew.
const whenFold = (entry, others, named, changed) => {
  const now = () => ({ when: null, window: null, decay: null, ...entry.timing });
  const set = (change, anew) => {
    entry.timing = { ...now(), ...change };
    entry.timed = timed(entry.timing);
    changed(anew);
  };
  const name = named(entry);
  const pick = (part, label, choices, chosen, put) =>
    h("select", { class: "sd-where", "data-part": part, "aria-label": label, onchange: (event) => put(event.target.value) },
      choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  // Nothing is drawn anew: the press or the Tab that leaves a field is for something on this card.
  const number = (part, label, get, put, wrong) =>
    h("input", { type: "text", inputmode: "decimal", autocomplete: "off", class: "sd-number", "data-part": part, "aria-label": label, value: get() ?? "", placeholder: "–",
      onchange: ({ target }) => {
        const typed = target.value.trim();
        const found = typed === "" ? null : decimal(typed);
        const fault = typed !== "" && (found === null ? "is no number" : wrong(found));
        if (fault) say(`“${typed}” ${fault}; it stays as it was.`);
        else put(found);
        target.value = get() ?? "";
      } });

  const waited = (change, anew = true) => {
    const { when } = now();
    const feature = String(change.feature ?? when?.feature ?? (others.find((one) => one !== entry) ?? entry).feature);
    const held = others.find((one) => one.feature === feature);
    const unit = held ? (held.maximum ? "max" : "raw") : (when?.unit ?? "max");
    set({ when: { op: "above", value: 0.5, latch: false, ...when, ...change, feature, unit } }, anew);
  };
  const { when } = now();
  const features = others.map((one) => [one.feature, named(one)]);
  if (when && !others.some((one) => one.feature === String(when.feature))) features.unshift([String(when.feature), String(when.feature)]);
  const waits = when
    ? [
        pick("when feature", "The feature it waits for", features, String(when.feature), (feature) => waited({ feature })),
        pick("when op", "Above or below", [["above", ">"], ["below", "<"]], when.op ?? "above", (op) => waited({ op }, false)),
        number("when value", "The activation it waits for", () => now().when.value, (value) => waited({ value: value ?? 0.5 }, false), () => ""),
        h("span", { "aria-hidden": "true" }, when.unit === "raw" ? "" : "×"),
      ]
    : [];

  const span = () => now().window ?? { first: null, last: null };
  const cut = (change) => {
    const next = { ...span(), ...change };
    set({ window: next.first === null && next.last === null ? null : next });
  };
  const place = (end, other, label) =>
    number(end, label, () => span()[end], (value) => cut({ [end]: value }), (value) => {
      if (!Number.isInteger(value) || value < 0) return "is no token's number: they are 0, 1, 2 …";
      const bound = span()[other];
      return bound !== null && (end === "last" ? value < bound : value > bound) && "leaves no token";
    });
  return h("div", { class: "sd-when", role: "group", "aria-label": `When ${name} acts` },
    h("div", { class: "sd-row" },
      pick("when", "Whether it waits", [["", "always"], ["while", "while"], ["once", "once and after"]], when ? (when.latch ? "once" : "while") : "",
        (value) => (value ? waited({ latch: value === "once" }) : set({ when: null }, true))), waits),
    h("div", { class: "sd-row" }, "on the reply's tokens", place("first", "last", "First token it acts on"), "to", place("last", "first", "Last token it acts on")),
    h("div", { class: "sd-row" }, "halved every",
      number("decay", "Tokens after which half of it is left", () => now().decay, (value) => set({ decay: value }), (value) => value < 0.01 && "is less than 0.01"), "tokens"));
};
