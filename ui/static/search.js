// The search box: a combobox whose results come from Python. props.value is ui/search.py's answer.
const input = element.querySelector("input");
const found = element.querySelector(".sd-found");
const WAIT = 150; // ms after the last key
let asked = 0; // number of the last query; an answer to an older one is not shown
let timer = null;
let picking = false; // Enter was pressed before the answer came
let active = -1;
let sort = "relevance";
let dictionary = ""; // the service's first
let fires = false; // what was typed is a text to read, not words to find
let shut = false; // Escape: the focus stays in the field, the list comes back when it is asked for
let results = [];

const ask = (offset = 0) => {
  timer = null;
  asked += 1;
  trigger("query", { q: input.value, sort, dictionary, offset, n: asked, fires });
};
const fresh = () => timer === null && props.value && props.value.n === asked;
const rows = () => [...found.querySelectorAll("[role=option]")];
const pick = (ref) => {
  if (!racked(ref)) trigger("pick", { ref });
  close();
  input.value = "";
  fires = false;
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

// The quantity that the list is sorted by; else how often each fires.
const QUANTITIES = {
  density: [percent, "how many of the corpus' tokens it fires on"],
  maximum: [short, "its largest activation in the corpus"],
  steerability: [(width) => (width ? `${short(width)}× wide` : ""), "how wide its safe band is, in multiples of its maximum"],
  activation: [short, "its largest activation in the text"],
  output_score: [short, "output score, 0 to 1: how likely steering makes what it promotes; a first guess"],
};
const option = (one, index, several) => {
  const inside = racked(one.ref);
  const by = props.value.fires ? "activation" : props.value.sort in QUANTITIES ? props.value.sort : "density";
  const [told, why] = QUANTITIES[by];
  const row = h("div", { role: "option", id: `sd-option-${index}`, "data-ref": one.ref, "aria-selected": "false", class: inside ? "sd-held" : null },
    h("div", { class: "sd-found-text" },
      h("span", { class: "sd-found-label", dir: "auto", title: one.label ? `${one.label} (${one.ref})` : one.ref }, one.label || one.ref),
      several && one.label && h("span", { class: "sd-found-ref" }, one.ref),
      h("span", { class: "sd-found-tokens" }, (one.promoted || []).slice(0, 5).map((token) => h("code", {}, visible(token).trim() || "␣")))),
    one.band && h("span", { class: "sd-found-band", title: `a safe band was measured: ${one.band[0]}× to ${one.band[1]}×` }, "band"),
    h("span", { class: "sd-found-density", title: why }, told(one[by])),
    h("button", { type: "button", tabindex: "-1", class: "sd-info", "aria-label": `Details of ${one.label || one.ref}`, title: "Details (Shift+Enter)", onclick: (event) => { event.stopPropagation(); close(); details(one.ref, one.label); } }, "i"));
  row.addEventListener("click", () => pick(one.ref));
  return row;
};
const draw = () => {
  const answer = props.value || {};
  if (!fresh()) return;
  const before = answer.offset ? results : [];
  results = before.concat((answer.results || []).filter((one) => !before.some((other) => other.ref === one.ref)));
  list(answer);
  if (!answer.offset) mark(answer.q ? 0 : null);
  if (picking && results.length) pick(results[0].ref);
  picking = false;
};
const count = (answer) => {
  const total = `${answer.total.toLocaleString("en")}${answer.more ? "+" : ""}`;
  const shown = answer.next ? `first ${results.length.toLocaleString("en")} of ${total}` : `${total} feature${answer.total === 1 ? "" : "s"}`;
  if (answer.fires) return `Firing on “${answer.q.length > 60 ? `${answer.q.slice(0, 60)}…` : answer.q}”`;
  return answer.some ? `No feature has all of these words. With some of them: ${shown}` : shown;
};
const list = (answer) => {
  const told = answer.error ? answer.error : results.length ? count(answer) : answer.fires ? `Nothing fires on “${answer.q}”.` : `Nothing found for “${answer.q}”. Try another word, or fewer.`;
  const several = (answer.dictionaries || []).length > 1;
  const which = several && h("select", { "aria-label": "Dictionary", onchange: (event) => { dictionary = event.target.value; ask(); input.focus(); } },
    answer.dictionaries.map((name) => h("option", { value: name, selected: name === answer.dictionary }, name)));
  const sorts = h("select", { "aria-label": "Sort features by", onchange: (event) => { sort = event.target.value; ask(); input.focus(); } },
    [["relevance", "best match"], ["steerability", "steers best"], ["output_score", "output score"], ["density", "most frequent"], ["maximum", "strongest"], ["label", "A to Z"]].map(([value, text]) => h("option", { value, selected: value === (answer.sort || sort) }, text)));
  const inside = document.activeElement === input || found.contains(document.activeElement);
  const [scrolled, reading] = [found.querySelector("[role=listbox]")?.scrollTop, found.contains(document.activeElement)];
  const text = !answer.fires && (answer.q || "").trim().includes(" ");
  const read = text && h("button", { type: "button", class: "sd-more", onclick: () => { fires = true; ask(); input.focus(); } }, "What fires on this text?");
  const more = answer.next && h("button", { type: "button", class: "sd-more", onclick: () => ask(answer.next) }, "More");
  const box = h("div", { role: "listbox", id: "sd-results", "aria-label": "Features found" }, results.map((one, index) => option(one, index, several)));
  found.replaceChildren(...[h("div", { class: "sd-found-head" }, h("span", { role: "status" }, told), which, !answer.fires && sorts), box, more, read].filter(Boolean));
  if (inside && !shut) open();
  if (!answer.offset) return;
  mark(active < 0 ? null : active);
  box.scrollTop = scrolled; // more rows move none of those that are read
  if (reading) (more || input).focus();
};

input.addEventListener("input", () => {
  shut = picking = fires = false;
  clearTimeout(timer);
  timer = setTimeout(() => ask(), WAIT);
});
const look = () => {
  shut = false;
  if (!fresh()) return ask();
  draw(); // what is in the rack by now
  open();
};
input.addEventListener("focus", look);
input.addEventListener("pointerdown", () => { if (found.hidden && document.activeElement === input) look(); });
input.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // the key ends a word of an input method
  const arrow = event.key === "ArrowDown" || event.key === "ArrowUp";
  // Nothing is chosen of a list that is not in sight.
  if (found.hidden && (arrow || (event.key === "Enter" && (shut || fresh())))) { event.preventDefault(); look(); }
  else if (arrow) { event.preventDefault(); mark(event.key === "ArrowDown" ? active + 1 : Math.max(active, 0) - 1); }
  else if (event.key === "Enter") {
    event.preventDefault();
    if (timer !== null) { clearTimeout(timer); ask(); }
    if (event.shiftKey) { if (fresh()) rows()[active]?.querySelector(".sd-info").click(); }
    else if (!fresh()) picking = input.value.trim() !== "";
    else if (rows()[active]) pick(rows()[active].dataset.ref);
  }
});
element.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || found.hidden) return;
  event.stopPropagation();
  event.preventDefault(); // a search field would empty itself
  input.focus();
  shut = true;
  close();
});
// A row takes no focus: pressed, it would close the list under the pointer.
found.addEventListener("mousedown", (event) => { if (!event.target.closest("select")) event.preventDefault(); });
element.addEventListener("focusout", (event) => { if (!element.contains(event.relatedTarget)) close(); });
watch("value", draw);
