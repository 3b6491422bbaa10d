// Shared by every widget. Text goes in as text nodes only: labels and tokens are hostile.
const h = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
const visible = (token) => token.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
const short = (number) => {
  if (number === null || number === undefined) return "";
  const size = Math.abs(number);
  return size !== 0 && size < 0.01 ? number.toExponential(1) : String(+number.toFixed(size < 10 ? 2 : 1));
};
const percent = (fraction) => {
  if (fraction === null || fraction === undefined) return "";
  return fraction > 0 && fraction < 0.0001 ? "<0.01 %" : `${+(100 * fraction).toPrecision(2)} %`;
};
const colour = (number) => `var(--f${number % 8})`;
// What was typed as a number, null where it is none. A comma is a point: half the world writes 1,5.
const decimal = (typed) => {
  const text = typed.trim().replace(",", ".").replace("\u2212", "-");
  const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null; // of infinity JSON would make nothing at all
};
// What this tab keeps over a reload. An earlier version of the page may have kept it in another form.
const stored = {
  get: (name) => {
    try { return JSON.parse(sessionStorage.getItem(`steerdeck-${name}`)); } catch { return null; }
  },
  set: (name, value) => {
    try { sessionStorage.setItem(`steerdeck-${name}`, JSON.stringify(value)); } catch { /* full */ }
  },
};
// Whether a feature is in the rack, by its reference.
const racked = (ref) => [...document.querySelectorAll("#rack [data-ref]")].some((node) => node.dataset.ref === ref);
const say = (text) => document.dispatchEvent(new CustomEvent("steerdeck:say", { detail: text })); // toast.js
// A feature's details are wanted: card.js shows the drawer at once, Python fills it.
const details = (ref, label) => {
  document.dispatchEvent(new CustomEvent("steerdeck:look", { detail: { ref, label } }));
  trigger("look", { ref });
};
const copied = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard outside https and localhost: a selected field copies everywhere.
    const held = document.activeElement;
    const field = h("textarea", { style: { position: "fixed", opacity: "0" } });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    held?.focus({ preventScroll: true });
    return done;
  }
};
const copy = async (text, button, said = "Copied.") => {
  if (!(await copied(text))) return say("This browser did not let the page copy: select the text and copy it by hand.");
  say(said);
  button.dataset.label ??= button.textContent; // not “Copied” of the press before
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = button.dataset.label), 1200);
};
