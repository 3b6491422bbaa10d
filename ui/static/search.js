// The search box: a combobox whose results come from Python. props.value is ui/search.py's answer.
const input = element.querySelector("input");
const found = element.querySelector(".sd-found");
const WAIT = 150; // ms after the last key
let asked = 0; // number of the last query; an answer to an older one is not shown
let timer = null;
let picking = false; // Enter was pressed before the answer came
let active = -1;
let sort = "relevance";

const ask = () => {
  timer = null;
  asked += 1;
  trigger("query", { q: input.value, sort, n: asked });
};
const fresh = () => timer === null && props.value && props.value.n === asked;
const rows = () => [...found.querySelectorAll("[role=option]")];
const held = (ref) => [...document.querySelectorAll("#rack [data-ref]")].some((node) => node.dataset.ref === ref);
const pick = (ref) => {
  if (!held(ref)) trigger("pick", { ref });
  close();
  input.value = "";
  clearTimeout(timer);
  timer = null;
  asked += 1; // what was found is done with
};
const close = () => {
  found.hidden = true;
  input.setAttribute("aria-expanded", "false");
  input.removeAttribute("aria-activedescendant");
};
const open = () => {
  found.hidden = false;
  input.setAttribute("aria-expanded", "true");
};
const mark = (index) => {
  const all = rows();
  active = index === null || !all.length ? -1 : (index + all.length) % all.length;
  all.forEach((row, i) => row.setAttribute("aria-selected", String(i === active)));
  if (active < 0) return;
  all[active].scrollIntoView({ block: "nearest" });
  input.setAttribute("aria-activedescendant", all[active].id);
};

const option = (one, index) => {
  const inside = held(one.ref);
  const row = h("div", { role: "option", id: `sd-option-${index}`, "data-ref": one.ref, "aria-selected": "false", class: inside ? "sd-held" : null },
    h("div", { class: "sd-found-text" },
      h("span", { class: "sd-found-label" }, one.label || one.ref),
      h("span", { class: "sd-found-tokens" }, (one.promoted || []).slice(0, 5).map((token) => h("code", {}, visible(token).trim() || "␣")))),
    h("span", { class: "sd-found-density", title: "how many of the corpus' tokens it fires on" }, percent(one.density)),
    h("button", { type: "button", tabindex: "-1", class: "sd-info", "aria-label": `Details of ${one.label || one.ref}`, onclick: (event) => { event.stopPropagation(); close(); trigger("look", { ref: one.ref }); } }, "i"));
  row.addEventListener("click", () => pick(one.ref));
  return row;
};
const draw = () => {
  const answer = props.value || {};
  if (!fresh()) return;
  const results = answer.results || [];
  const told = answer.error ? answer.error : results.length ? `${answer.total}${answer.more ? "+" : ""} feature${answer.total === 1 ? "" : "s"}` : `Nothing found for “${answer.q}”. Try another word, or fewer.`;
  const sorts = h("select", { "aria-label": "Sort features by", onchange: (event) => { sort = event.target.value; ask(); input.focus(); } },
    [["relevance", "best match"], ["steerability", "steers best"], ["output_score", "says it surest"], ["density", "most frequent"], ["maximum", "strongest"], ["label", "A to Z"]].map(([value, text]) => h("option", { value, selected: value === (answer.sort || sort) }, text)));
  found.replaceChildren(
    h("div", { class: "sd-found-head" }, h("span", { role: "status" }, told), sorts),
    h("div", { role: "listbox", id: "sd-results", "aria-label": "Features found" }, results.map(option)));
  if (document.activeElement === input || found.contains(document.activeElement)) open();
  mark(answer.q ? 0 : null);
  if (picking && results.length) pick(results[0].ref);
  picking = false;
};

input.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT);
});
const look = () => (fresh() ? (draw(), open()) : ask());
input.addEventListener("focus", look);
input.addEventListener("pointerdown", () => { if (found.hidden && document.activeElement === input) look(); });
input.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); mark(event.key === "ArrowDown" ? active + 1 : Math.max(active, 0) - 1); }
  else if (event.key === "Enter") {
    event.preventDefault();
    if (timer !== null) { clearTimeout(timer); ask(); }
    if (!fresh()) picking = input.value.trim() !== "";
    else if (rows()[active]) pick(rows()[active].dataset.ref);
  }
});
element.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!found.hidden) event.stopPropagation();
  close();
  document.activeElement.blur();
});
// A row takes no focus: pressed, it would close the list under the pointer.
found.addEventListener("mousedown", (event) => { if (!event.target.closest("select")) event.preventDefault(); });
element.addEventListener("focusout", (event) => { if (!element.contains(event.relatedTarget)) close(); });
watch("value", draw);
