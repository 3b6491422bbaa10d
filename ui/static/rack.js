// The rack. props.value is the list of entries (ui/rack.py, Entry); Python checks what comes back.
const list = element.querySelector(".sd-rack");
const OPS = { clamp: "Clamp", add: "Add", ablate: "Ablate", scale: "Scale", at_least: "At least", at_most: "At most" };
const WHERES = { all: "everywhere", prompt: "in the prompt", generated: "in the reply" };
const EVERY = 100; // ms between commits while a slider moves: the reply follows it
let entries = [];
const REST = 350; // ms without a change after which the rack has settled
const FURTHEST = 1e6; // a strength that ui/rack.py takes
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
const commit = (soon) => {
  if (!soon) {
    clearTimeout(timer);
    send();
  } else if (timer === null) timer = setTimeout(send, EVERY);
};
const announce = () => {
  const acting = entries.filter((entry) => entry.on).length;
  document.body.dataset.rack = entries.length;
  document.querySelectorAll(".sd-rack-count").forEach((node) => (node.textContent = acting ? ` ${acting}` : ""));
};
const clampTo = (value, lo, hi) => Math.min(hi, Math.max(lo, value));
// The slider's ends: Python's, or the strength where that lies beyond them.
const span = (entry) => [Math.min(entry.lo, Math.floor(entry.strength)), Math.max(entry.hi, Math.ceil(entry.strength))];
const place = ([lo, hi], value) => `${(100 * (clampTo(value, lo, hi) - lo)) / (hi - lo)}%`;
const banded = (entry) => entry.band && entry.unit === "max" && entry.op === entry.band_op;
const zone = (entry) => {
  if (!entry.on) return "off";
  if (entry.op === "ablate") return "held at zero";
  if (!banded(entry)) return entry.op === entry.band_op || !entry.band ? "" : `band measured for ${OPS[entry.band_op].toLowerCase()}`;
  const [onset, breakdown] = entry.band;
  if (breakdown !== null && entry.strength > breakdown) return "too strong: may ramble";
  if (entry.strength >= onset) return "in the safe band";
  return entry.strength > 0 ? "gentle: may not show" : "below its natural level";
};

const track = (entry, ends) => {
  const marks = [h("span", { class: "sd-zero", style: { left: place(ends, 0) } })];
  if (banded(entry)) {
    const [onset, breakdown] = entry.band;
    const end = breakdown === null ? ends[1] : breakdown;
    marks.push(h("span", { class: "sd-safe", title: `safe band: ${onset}× to ${breakdown === null ? "…" : breakdown + "×"}`, style: { left: place(ends, onset), right: `calc(100% - ${place(ends, end)})` } }));
    if (breakdown !== null) marks.push(h("span", { class: "sd-strong", style: { left: place(ends, breakdown), right: "0" } }));
  }
  return h("div", { class: "sd-track", "aria-hidden": "true" }, marks);
};

const card = (entry) => {
  const name = entry.label || entry.feature;
  const unit = entry.unit === "raw" || entry.op === "scale" ? "" : "×";
  const ends = span(entry);
  const hint = h("span", { class: "sd-hint" });
  const number = h("input", { type: "number", class: "sd-number", step: entry.step, value: entry.strength, "aria-label": `Strength of ${name}`, disabled: entry.op === "ablate" });
  const slider = h("input", { type: "range", min: ends[0], max: ends[1], step: entry.step, "aria-label": `Slider for ${name}`, disabled: entry.op === "ablate" });
  slider.value = entry.strength;
  const fill = h("span", { class: "sd-fill" });
  const box = h("li", { class: "sd-feature", "data-ref": entry.feature, style: { "--c": colour(entry.colour) } });
  const show = () => {
    box.classList.toggle("sd-off", !entry.on);
    const [zero, now] = [parseFloat(place(ends, 0)), parseFloat(place(ends, entry.strength))];
    fill.style.left = `${Math.min(zero, now)}%`;
    fill.style.right = `${100 - Math.max(zero, now)}%`;
    hint.textContent = zone(entry);
    box.dataset.zone = hint.textContent.startsWith("too") ? "strong" : "";
    slider.setAttribute("aria-valuetext", `${entry.strength}${unit ? " times its maximum" : ""}, ${hint.textContent}`);
  };
  const set = (value, soon) => {
    if (!Number.isFinite(value)) return;
    entry.strength = +value.toFixed(4);
    show();
    commit(soon);
  };
  slider.addEventListener("input", () => { number.value = slider.value; set(slider.valueAsNumber, true); });
  slider.addEventListener("change", () => set(slider.valueAsNumber, false));
  number.addEventListener("change", () => {
    set(clampTo(number.valueAsNumber, -FURTHEST, FURTHEST), false);
    draw();
  });
  const segment = (op) =>
    h("button", { type: "button", "aria-pressed": String(entry.op === op), onclick: () => { entry.op = op; commit(false); draw(); } }, OPS[op]);
  const ops = ["clamp", "add", "ablate"].concat(["clamp", "add", "ablate"].includes(entry.op) ? [] : [entry.op]);
  const where = h("select", { class: "sd-where", "aria-label": `Where ${name} is steered`, onchange: (event) => { entry.where = event.target.value; commit(false); } },
    Object.entries(WHERES).map(([value, text]) => h("option", { value, selected: entry.where === value }, text)));
  box.append(
    h("div", { class: "sd-row" },
      h("input", { type: "checkbox", class: "sd-switch", checked: entry.on, "aria-label": `${name} on`, onchange: (event) => { entry.on = event.target.checked; show(); commit(false); } }),
      h("button", { type: "button", class: "sd-name", title: "Show details", onclick: () => trigger("look", { ref: entry.feature }) }, name),
      h("button", { type: "button", class: "sd-remove", "aria-label": `Remove ${name}`, onclick: () => { entries = entries.filter((other) => other !== entry); commit(false); draw(); } }, "×")),
    h("div", { class: "sd-row" },
      h("div", { class: "sd-ops", role: "group", "aria-label": `Operation on ${name}` }, ops.map(segment)),
      h("label", { class: "sd-value" }, number, h("span", { "aria-hidden": "true" }, unit))),
    h("div", { class: "sd-slider" }, track(entry, ends), fill, slider),
    h("div", { class: "sd-row sd-under" }, hint, where),
    entry.timed ? h("div", { class: "sd-row sd-timed" }, h("span", {}, entry.timed),
      h("button", { type: "button", "aria-label": `Let ${name} act always`, title: "Act always", onclick: () => { entry.timing = {}; entry.timed = ""; commit(false); draw(); } }, "×")) : "",
  );
  show();
  return box;
};

const empty = () =>
  h("li", { class: "sd-empty" },
    h("strong", {}, "The rack is empty"),
    h("span", {}, "Load a preset, or search for a feature above and add it. Then turn it up and talk."));

const draw = () => {
  const held = document.activeElement && list.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  list.replaceChildren(...(entries.length ? entries.map(card) : [empty()]));
  if (held) [...list.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === held)?.focus();
  announce();
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
