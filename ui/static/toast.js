// Sentences that pass. props.value: {text, n}; Gradio's own toasts would render markup.
const box = element.querySelector(".sd-toasts");
const STAY = 8000; // ms
watch("value", () => {
  const told = (props.value || {}).text;
  if (!told) return;
  const line = h("p", { role: "alert" }, told, h("button", { type: "button", class: "sd-close", "aria-label": "Dismiss", onclick: () => line.remove() }, "×"));
  box.append(line);
  setTimeout(() => line.remove(), STAY);
});
