// The presets: a filtered list, and a field that saves the rack as one more.
const root = element.querySelector(".sd-gallery");
const filter = h("input", { type: "search", "aria-label": "Filter presets", placeholder: "Filter presets" });
const list = h("ul", { class: "sd-presets" });
const title = h("input", { type: "text", maxlength: "100", "aria-label": "Name of the new preset", placeholder: "Save the rack as…" });
const form = h("form", { class: "sd-save", onsubmit: (event) => { event.preventDefault(); trigger("keep", { title: title.value }); title.value = ""; } },
  title, h("button", { type: "submit" }, "Save"));

const item = (preset) =>
  h("li", {},
    h("button", { type: "button", class: "sd-preset", onclick: () => trigger("choose", { name: preset.name }) },
      h("strong", {}, preset.title || preset.name), h("span", {}, preset.description || "")),
    !preset.builtin && h("button", { type: "button", class: "sd-remove", "aria-label": `Delete preset ${preset.title || preset.name}`, onclick: () => trigger("drop", { name: preset.name }) }, "×"));
const draw = () => {
  const word = filter.value.trim().toLowerCase();
  const all = Array.isArray(props.value) ? props.value : [];
  const shown = all.filter((preset) => `${preset.title} ${preset.name} ${preset.description}`.toLowerCase().includes(word));
  list.replaceChildren(...(shown.length ? shown.map(item) : [h("li", { class: "sd-empty" }, all.length ? "No preset matches." : "No presets yet. Fill the rack and save it here.")]));
};
filter.addEventListener("input", draw);
root.append(filter, list, form);
watch("value", draw);
draw();
