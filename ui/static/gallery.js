// The presets: a field that saves the rack as one more, and a filtered list.
const root = element.querySelector(".sd-gallery");
const SURE = 5000; // ms in which a second press deletes
const filter = h("input", { type: "search", "aria-label": "Filter presets", placeholder: "Filter presets" });
const list = h("ul", { class: "sd-presets" });
const title = h("input", { type: "text", maxlength: "100", "aria-label": "Name of the new preset", placeholder: "Save the rack as…" });
const form = h("form", { class: "sd-save", onsubmit: (event) => { event.preventDefault(); trigger("keep", { title: title.value }); } },
  title, h("button", { type: "submit" }, "Save"));
const called = (preset) => preset.title || preset.name;

// Presets are the server's: whoever deletes one takes it from everybody.
const remover = (preset) => {
  const button = h("button", { type: "button", class: "sd-remove", "aria-label": `Delete preset ${called(preset)}` }, "×");
  button.addEventListener("click", () => {
    if (button.classList.contains("sd-sure")) return trigger("drop", { name: preset.name });
    button.classList.add("sd-sure");
    button.textContent = "Delete?";
    say(`Press once more to delete “${called(preset)}” for everybody on this server.`);
    setTimeout(() => {
      button.classList.remove("sd-sure");
      button.textContent = "×";
    }, SURE);
  });
  return button;
};
const item = (preset) =>
  h("li", { "data-name": preset.name },
    h("button", { type: "button", class: "sd-preset", onclick: () => trigger("choose", { name: preset.name }) },
      h("strong", { dir: "auto" }, called(preset)), h("span", { dir: "auto" }, preset.description || "")),
    !preset.builtin && remover(preset));
const draw = () => {
  const word = filter.value.trim().toLowerCase();
  const all = Array.isArray(props.value) ? props.value : [];
  const shown = all.filter((preset) => `${preset.title} ${preset.name} ${preset.description}`.toLowerCase().includes(word));
  const held = document.activeElement?.closest(".sd-presets li");
  const at = [...list.children].indexOf(held);
  list.replaceChildren(...(shown.length ? shown.map(item) : [h("li", { class: "sd-empty" }, all.length ? "No preset matches." : "No presets yet. Fill the rack and save it here.")]));
  if (at < 0) return;
  const items = [...list.children];
  const near = items.find((node) => node.dataset.name === held.dataset.name) || items[Math.min(at, items.length - 1)];
  (near.querySelector(".sd-preset") || filter).focus(); // not to the top of the page
};
const take = () => {
  const saved = Array.isArray(props.value) && props.value.find((preset) => preset.saved);
  if (saved) {
    if (title.value.trim() === called(saved)) title.value = "";
    filter.value = "";
    say(`Saved as “${called(saved)}”.`);
  }
  draw();
  if (saved) [...list.children].find((node) => node.dataset.name === saved.name)?.scrollIntoView({ block: "nearest" });
};
filter.addEventListener("input", draw);
root.append(form, filter, list);
watch("value", take);
draw();
