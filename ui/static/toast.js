// Sentences that pass. props.value: {text, n}; Gradio's own toasts would render markup.
const box = element.querySelector(".sd-toasts");
const STAY = 8000; // ms
const tell = (told) => {
  const line = h("p", { role: "alert" }, told, h("button", { type: "button", class: "sd-close", "aria-label": "Dismiss", onclick: () => line.remove() }, "×"));
  box.append(line);
  return line;
};
watch("value", () => {
  const told = (props.value || {}).text;
  if (!told) return;
  const line = tell(told);
  setTimeout(() => line.remove(), STAY);
});
// Gradio loads the page anew after a broken connection. Nobody may be looking then: this one stays.
const lost = sessionStorage.getItem("steerdeck-talked"); // thread.js
const [arrival] = performance.getEntriesByType("navigation");
if (lost && arrival?.type === "reload") tell("The conversation is lost: the page was loaded anew, as after a broken connection. Rack and settings are kept.");
