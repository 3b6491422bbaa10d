// The settings. props.value is the dict of ui/settings.py; an empty field leaves the choice to the model.
const root = element.querySelector(".sd-settings");
const keep = () => stored.set("settings", props.value || {}); // Gradio loads the page anew after a broken connection
const commit = (name, value) => {
  props.value = { ...props.value, [name]: value };
  keep();
};
const text = h("textarea", { rows: "3", placeholder: "None", onchange: (event) => commit("system", event.target.value) });
// Not type=number: a browser in English drops the comma of 1,5 as it is typed, and takes 15.
const number = (name, attributes) => {
  const input = h("input", { type: "text", autocomplete: "off", ...attributes });
  input.addEventListener("change", () => {
    const typed = input.value.trim();
    const value = typed ? decimal(typed) : null;
    if (typed && value === null) {
      say(`“${typed}” is no number; the setting stays as it was.`);
      input.value = props.value?.[name] ?? "";
    } else commit(name, value);
  });
  return input;
};
const fields = {
  temperature: number("temperature", { inputmode: "decimal", placeholder: "the model's own" }),
  max_tokens: number("max_tokens", { inputmode: "numeric", placeholder: "as long as fits" }),
  seed: number("seed", { inputmode: "numeric", placeholder: "another one each time" }),
};
const [norm, guard, measure] = ["norm", "guard", "measure"].map((name) =>
  h("input", { type: "checkbox", class: "sd-switch", onchange: (event) => commit(name, event.target.checked) }));
const key = h("input", { type: "password", autocomplete: "off", "aria-label": "API key" });
const form = h("form", { hidden: true, onsubmit: (event) => { event.preventDefault(); trigger("unlock", { key: key.value }); key.value = ""; } },
  h("label", {}, "API key", h("small", {}, "This server asks for one. It stays in this browser."), key), h("button", { type: "submit" }, "Use key"));
const check = (input, title, hint) => h("label", { class: "sd-check" }, input, h("span", {}, title), h("small", {}, hint));
const row = (title, input, hint) => h("label", {}, title, input, hint && h("small", {}, hint));
root.append(
  form,
  row("System prompt", text),
  row("Temperature", fields.temperature, "0 always takes the likeliest token; above 1 gets loose."),
  row("Longest reply, in tokens", fields.max_tokens),
  row("Seed", fields.seed, "The same seed, rack and question give the same reply."),
  check(norm, "Keep the length of the residual stream", "Steering turns its direction only: gentler at high strengths."),
  check(guard, "Guard the reply's coherence", "Where the text goes in circles, all strengths are lowered step by step."),
  check(measure, "Measure against the unsteered model", "How far each token was moved, and what was likely without steering. Each reply then takes two rows of the server."));
const draw = () => {
  const value = props.value || {};
  if (document.activeElement !== text) text.value = value.system || "";
  for (const [name, input] of Object.entries(fields)) if (document.activeElement !== input) input.value = value[name] ?? "";
  norm.checked = Boolean(value.norm);
  guard.checked = Boolean(value.guard);
  measure.checked = value.measure !== false;
  form.hidden = !value.ask_key;
};
watch("value", () => {
  keep();
  draw();
});
draw();
const kept = stored.get("settings");
// Not at once: while it mounts a widget, Gradio puts back the value that it began with.
if (kept) setTimeout(() => {
  props.value = { ...props.value, ...kept };
  draw();
});
