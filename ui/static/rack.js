// The rack. props.value is the list of entries (ui/rack.py, Entry); Python checks what comes back.
const list = element.querySelector(".sd-rack");
const WHERES = { all: "everywhere", prompt: "in the prompt", generated: "in the reply" };
const EVERY = 100; // ms between commits while a slider moves: the reply follows it
let entries = [];
const REST = 350; // ms without a change after which the rack has settled
let timer = null;
let resting = null;

const send = () => {
  timer = null;
  props.value = entries.map((entry) => ({ ...entry }));
  announce();
  changed();
};
const changed = () => {
  document.body.classList.add("sd-changed");
  settle();
};
const settle = () => {
  clearTimeout(resting);
  resting = setTimeout(follow, REST);
};
const follow = () => {
  const { classList } = document.body;
  if (!classList.contains("sd-changed")) return; // a reply has begun with the rack as it is
  if (classList.contains("sd-busy")) return settle();
  if (document.querySelector("#follow input")?.checked) trigger("follow", {});
};
// Replies begin. If what they were asked with (ui/rack.py, acting) has been turned meanwhile, that is to be followed.
document.addEventListener("steerdeck:asked", ({ detail }) => {
  const acting = entries.filter((one) => one.on).map(({ feature, op, strength, unit, where, timing }) => [feature, op, strength, unit, where, timing]);
  const values = (rack) => JSON.stringify(rack.map((one) => [...one.slice(0, -1), moments(one.at(-1))]));
  if (values(acting) === values(detail)) document.body.classList.remove("sd-changed");
  else settle();
});
const commit = (soon) => {
  if (!soon) {
    clearTimeout(timer);
    send();
  } else if (timer === null) timer = setTimeout(send, EVERY);
};
const announce = () => {
  const acting = entries.filter((entry) => entry.on).length;
  document.body.classList.toggle("sd-several", acting > 1); // each alone can be asked for
  document.body.dataset.rack = entries.length;
  document.querySelectorAll(".sd-rack-count").forEach((node) => (node.textContent = acting ? ` ${acting}` : ""));
};
const place = ([lo, hi], value) => `${(100 * (clampTo(value, lo, hi) - lo)) / (hi - lo)}%`;

const track = (entry, ends) => {
  const marks = [h("span", { class: "sd-zero", style: { left: place(ends, neutral(entry)) } })];
  if (banded(entry)) {
    const [onset, breakdown] = entry.band;
    const end = breakdown === null ? ends[1] : breakdown;
    marks.push(h("span", { class: "sd-safe", title: `safe band: ${onset}× to ${breakdown === null ? "…" : breakdown + "×"}`, style: { left: place(ends, onset), right: `calc(100% - ${place(ends, end)})` } }));
    if (breakdown !== null) marks.push(h("span", { class: "sd-strong", style: { left: place(ends, breakdown), right: "0" } }));
  }
  return h("div", { class: "sd-track", "aria-hidden": "true" }, marks);
};

// Two dictionaries may have a feature of the same label: then its reference says which is meant.
const named = (entry) => {
  const same = entries.filter((other) => other.label === entry.label).length > 1;
  return entry.label ? `${entry.label}${same ? ` (${entry.feature})` : ""}` : entry.feature;
};

const card = (entry) => {
  const name = named(entry);
  const unit = measured(entry) ? "×" : "";
  let ends = span(entry);
  let rail = track(entry, ends);
  const hint = h("span", { class: "sd-hint" });
  const number = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", class: "sd-number", value: entry.strength, "data-part": "strength", "aria-label": `Strength of ${name}`, disabled: entry.op === "ablate" });
  const slider = h("input", { type: "range", min: ends[0], max: ends[1], step: ends[2], "data-part": "slider", "aria-label": `Slider for ${name}`, disabled: entry.op === "ablate" });
  slider.value = entry.strength;
  const fill = h("span", { class: "sd-fill" });
  const box = h("li", { class: "sd-feature", "data-ref": entry.feature, style: { "--c": colour(entry.colour) } });
  const show = () => {
    box.classList.toggle("sd-off", !entry.on);
    const [zero, now] = [parseFloat(place(ends, neutral(entry))), parseFloat(place(ends, entry.strength))];
    fill.style.left = `${Math.min(zero, now)}%`;
    fill.style.right = `${100 - Math.max(zero, now)}%`;
    hint.textContent = zone(entry);
    hint.title = hint.textContent.endsWith("length") ? "a rule of thumb: no safe band has been measured" : hint.textContent; // on a narrow rack it is cut
    box.dataset.zone = hint.textContent.startsWith("too") ? "strong" : "";
    slider.setAttribute("aria-valuetext", [`${entry.strength}${unit ? " times its maximum" : ""}`, hint.textContent].filter(Boolean).join(", "));
  };
  const set = (value, soon) => {
    entry.strength = +value.toFixed(4);
    show();
    commit(soon);
    offer();
  };
  slider.addEventListener("input", () => { number.value = slider.value; set(slider.valueAsNumber, true); });
  slider.addEventListener("change", () => set(slider.valueAsNumber, false));
  // In place: the press or the Tab that leaves the field is for something on this card.
  const typed = (value) => {
    set(clampTo(value, -FURTHEST, FURTHEST), false);
    number.value = entry.strength;
    ends = span(entry);
    [slider.min, slider.max] = ends;
    slider.value = entry.strength;
    const fresh = track(entry, ends);
    rail.replaceWith(fresh);
    rail = fresh;
    show();
  };
  number.addEventListener("change", () => {
    const value = decimal(number.value);
    if (value !== null) return typed(value);
    say(`“${number.value}” is no number; the strength stays ${entry.strength}.`);
    number.value = entry.strength;
  });
  number.addEventListener("keydown", (event) => {
    const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    typed((decimal(number.value) ?? entry.strength) + way * ends[2]);
  });
  const ops = h("select", { class: "sd-op", "data-part": "op", "aria-label": `Operation on ${name}`, title: explained(entry), onchange: (event) => { operate(entry, event.target.value); commit(false); draw(); } },
    Object.entries(OPS).map(([value, text]) => h("option", { value, selected: entry.op === value, disabled: !entry.reads && value !== "add", title: DOES[value] }, text)));
  const where = h("select", { class: "sd-where", "data-part": "where", "aria-label": `Where ${name} is steered`, onchange: (event) => { entry.where = event.target.value; commit(false); } },
    Object.entries(WHERES).map(([value, text]) => h("option", { value, selected: entry.where === value }, text)));
  const fold = h("button", { type: "button", class: "sd-fold", "data-part": "fold", "aria-expanded": String(unfolded.has(entry.feature)), title: `When ${name} acts`, onclick: () => { unfolded.delete(entry.feature) || unfolded.add(entry.feature); draw(); } }, "When…");
  const acts = h("div", { class: "sd-row sd-timed" });
  const always = () => { entry.timing = {}; entry.labels = {}; entry.timed = ""; commit(false); draw(); };
  const showTimed = () => {
    acts.hidden = !entry.timed;
    acts.replaceChildren(...(entry.timed ? [h("span", { title: entry.timed }, timed(entry.timing, (ref) => entry.labels[ref] ?? ref)),
      h("button", { type: "button", "data-part": "always", "aria-label": `Let ${name} act always`, title: "Act always", onclick: always }, "×")] : []));
  };
  box.append(
    h("div", { class: "sd-row" },
      h("input", { type: "checkbox", class: "sd-switch", checked: entry.on, "data-part": "switch", "aria-label": `${name} on`, onchange: (event) => { entry.on = event.target.checked; show(); commit(false); } }),
      h("button", { type: "button", class: "sd-name", dir: "auto", "data-part": "name", "aria-label": name, title: `Show details of ${entry.feature}`, onclick: () => details(entry.feature, entry.label) }, entry.label || entry.feature),
      h("button", { type: "button", class: "sd-remove", "data-part": "remove", "aria-label": `Remove ${name}`, onclick: () => { entries = entries.filter((other) => other !== entry); commit(false); draw(); } }, "×")),
    h("div", { class: "sd-row" },
      ops,
      h("label", { class: "sd-value" }, number, h("span", { "aria-hidden": "true" }, unit))),
    h("div", { class: "sd-slider" }, rail, fill, slider),
    h("div", { class: "sd-row sd-under" }, h("span", { class: "sd-ref" }, entry.feature), hint, fold, where),
    unfolded.has(entry.feature) ? whenFold(entry, entries, named, (anew) => { commit(false); anew ? draw() : showTimed(); }) : "",
    acts,
  );
  showTimed();
  show();
  return box;
};

const empty = () =>
  h("li", { class: "sd-empty", tabindex: "-1" },
    h("strong", {}, "The rack is empty"),
    h("span", {}, "Load a preset, or search for a feature above and add it. Then turn it up and talk."));

const draw = () => {
  const held = document.activeElement;
  const inside = held && held !== list && list.contains(held);
  const at = inside ? [...list.children].indexOf(held.closest("li")) : -1;
  const { ref } = list.children[at]?.dataset ?? {};
  list.replaceChildren(...(entries.length ? entries.map(card) : [empty()]));
  announce();
  if (!inside) return;
  // Where it was, or as near as there is something: the focus must not fall out of the rack.
  const cards = [...list.children];
  const same = ref && cards.find((node) => node.dataset.ref === ref);
  const near = same || cards[Math.min(at, cards.length - 1)];
  const part = same && near.querySelector(`[data-part="${held.dataset.part}"]:not(:disabled)`);
  (part || near.querySelector(".sd-name") || near).focus();
};
// What a person changed or removed since the click stays so: the others of the answer are older.
const join = (more) => {
  for (const { joins, ...entry } of more) {
    if (entries.some((own) => own.feature === entry.feature)) continue;
    const used = new Set(entries.map((own) => own.colour));
    while (used.has(entry.colour)) entry.colour += 1; // another that was added at the same time
    entries.push(entry);
    list.querySelector(".sd-empty")?.remove();
    list.append(card(entry));
    // Another of that label has to say which it is, and an open fold to offer this one.
    if (unfolded.size || named(entry) !== (entry.label || entry.feature)) draw();
  }
  props.value = entries.map((entry) => ({ ...entry }));
  announce();
  changed();
};
const take = () => {
  const value = Array.isArray(props.value) ? props.value : [];
  if (JSON.stringify(value) === JSON.stringify(entries) && list.childElementCount) return;
  if (value.some((entry) => entry.joins)) return join(value.filter((entry) => entry.joins));
  clearTimeout(timer);
  timer = null;
  entries = value.map((entry) => ({ ...entry }));
  draw();
  changed();
};
watch("value", take);
take();
