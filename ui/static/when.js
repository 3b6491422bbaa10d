// When an edit acts: the fold under a feature that sets it, and what is set in a few words (those of ui/timing.py).
const unfolded = new Set(); // the features whose fold is open: a card may be drawn anew
const ABORTS = 8; // at most, those of ui/timing.py
const THINKING = { only: "in thinking blocks only", after: "outside of thinking blocks" };
const conditioned = ({ feature, op, value, unit }, label) => `${label(String(feature))} ${op === "below" ? "<" : ">"} ${value}${unit === "raw" ? "" : "×"}`;
// label: of a feature by its reference.
const timed = ({ when, abort, window: part, decay, thinking }, label = (ref) => ref) =>
  [
    when && `${when.latch ? "once" : "while"} ${conditioned(when, label)}`,
    part && (part.last === null ? `from token ${part.first ?? 0}` : `on tokens ${part.first ?? 0} to ${part.last}`),
    decay && `halved every ${decay} tokens`,
    thinking && THINKING[thinking],
    ...(abort || []).map((one) => `stops the reply when ${conditioned(one, label)}`),
  ].filter(Boolean).join(", ");
// The same as values in one order, to compare: Python leaves out what is usual.
const moments = ({ when, abort = [], window: part, decay, thinking }) => {
  const values = ({ feature, op = "above", value, unit = "max", latch = false }) => [String(feature), op, value, unit, latch];
  return [when && values(when), abort.map(values), part && [part.first, part.last], decay, thinking];
};
const picked = (part, label, choices, chosen, put) =>
  h("select", { class: "sd-where", "data-part": part, "aria-label": label, onchange: (event) => put(event.target.value) },
    choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
// Nothing is drawn anew: the press or the Tab that leaves a field is for something on this card.
const numbered = (part, label, get, put, wrong) =>
  h("input", { type: "text", inputmode: "decimal", autocomplete: "off", class: "sd-number", "data-part": part, "aria-label": label, value: get() ?? "", placeholder: "–",
    onchange: ({ target }) => {
      const typed = target.value.trim();
      const found = typed === "" ? null : decimal(typed);
      const fault = typed !== "" && (found === null ? "is no number" : wrong(found));
      if (fault) say(`“${typed}” ${fault}; it stays as it was.`);
      else put(found);
      target.value = get() ?? "";
    } });

// The fold of an entry; others: all of the rack. changed(anew): the entry was; anew: its card must be drawn anew.
const whenFold = (entry, others, named, changed) => {
  const now = () => ({ when: null, abort: [], window: null, decay: null, thinking: null, ...entry.timing });
  const label = (ref) => {
    const held = others.find((one) => one.feature === ref);
    return held ? named(held) : (entry.labels[ref] ?? ref);
  };
  const set = (change, anew) => {
    entry.timing = { ...now(), ...change };
    entry.timed = timed(entry.timing);
    const about = [entry.timing.when, ...entry.timing.abort].filter(Boolean).map((one) => String(one.feature));
    entry.labels = Object.fromEntries(about.map((ref) => [ref, label(ref).slice(0, 400)]));
    changed(anew);
  };
  const readable = others.filter((one) => one.reads); // a condition reads its feature
  // A condition that was, or a new one, with a change. The unit is that of the feature it is about.
  const turned = (was, change) => {
    const feature = String(change.feature ?? was?.feature ?? (readable.find((one) => one !== entry) ?? entry).feature);
    const held = others.find((one) => one.feature === feature);
    const unit = held && (!was || change.feature) ? (held.maximum ? "max" : "raw") : (was?.unit ?? "max");
    return { op: "above", value: 0.5, latch: false, ...was, ...change, feature, unit };
  };
  // Its controls. part, says: what they are called; get(): as it is now; put(condition, anew): it was changed.
  const controls = (part, says, get, put) => {
    const { feature, op = "above", unit } = get();
    const features = readable.map((one) => [one.feature, named(one)]);
    if (!readable.some((one) => one.feature === String(feature))) features.unshift([String(feature), label(String(feature))]);
    return h("span", { class: "sd-condition" },
      picked(`${part} feature`, `The feature ${says}`, features, String(feature), (value) => put(turned(get(), { feature: value }), true)),
      picked(`${part} op`, `Above or below what ${says}`, [["above", ">"], ["below", "<"]], op, (value) => put(turned(get(), { op: value }))),
      numbered(`${part} value`, `The activation ${says}`, () => get().value, (value) => put(turned(get(), { value: value ?? 0.5 })), () => ""),
      h("span", { "aria-hidden": "true" }, unit === "raw" ? "" : "×"));
  };
  const waits = () => {
    const { when } = now();
    const put = (condition, anew) => set({ when: condition }, anew);
    return h("div", { class: "sd-row" },
      picked("when", "Whether it waits", [["", "always"], ["while", "while"], ["once", "once and after"]], when ? (when.latch ? "once" : "while") : "",
        (value) => put(value ? turned(now().when, { latch: value === "once" }) : null, true)),
      when && controls("when", "it waits for", () => now().when, put));
  };
  const ends = (_, at) => {
    const { abort } = now();
    const nth = at ? ` (${at + 1})` : "";
    const put = (condition, anew) => set({ abort: now().abort.map((one, i) => (i === at ? condition : one)).filter(Boolean) }, anew);
    const begin = () => set({ abort: [turned(null, {})] }, true);
    return h("div", { class: "sd-row" },
      picked(`abort ${at}`, `Whether it stops the reply${nth}`, [["", "never stops the reply"], ["when", "stops the reply when"]], abort[at] ? "when" : "",
        (value) => (value ? begin() : put(null, true))),
      abort[at] && controls(`abort ${at}`, `it stops the reply at${nth}`, () => now().abort[at], put));
  };
  const span = () => now().window ?? { first: null, last: null };
  const cut = (change) => {
    const next = { ...span(), ...change };
    set({ window: next.first === null && next.last === null ? null : next });
  };
  const place = (end, other, label) =>
    numbered(end, label, () => span()[end], (value) => cut({ [end]: value }), (value) => {
      if (!Number.isInteger(value) || value < 0) return "is no token's number: they are 0, 1, 2 …";
      const bound = span()[other];
      return bound !== null && (end === "last" ? value < bound : value > bound) && "leaves no token";
    });
  const { abort, thinking } = now();
  const more = h("button", { type: "button", class: "sd-fold", "data-part": "abort more", onclick: () => set({ abort: [...now().abort, turned(null, {})] }, true) }, "or when…");
  return h("div", { class: "sd-when", role: "group", "aria-label": `When ${named(entry)} acts` },
    waits(),
    h("div", { class: "sd-row" }, "on the reply's tokens", place("first", "last", "First token it acts on"), "to", place("last", "first", "Last token it acts on")),
    h("div", { class: "sd-row" }, "halved every",
      numbered("decay", "Tokens after which half of it is left", () => now().decay, (value) => set({ decay: value }), (value) => value < 0.01 && "is less than 0.01"), "tokens"),
    // Of models that mark such blocks (top.js), or where it is set.
    h("div", { class: `sd-row sd-thinking${thinking ? " sd-set" : ""}` },
      picked("thinking", "Thinking blocks", [["", "in thinking blocks and outside"], ...Object.entries(THINKING)], thinking ?? "", (value) => set({ thinking: value || null }, true))),
    (abort.length ? abort : [null]).map(ends),
    abort.length > 0 && abort.length < ABORTS ? more : "");
};
