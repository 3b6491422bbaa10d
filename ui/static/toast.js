// Sentences that pass. props.value: {text, n, unsaid} (ui/desk.py); Gradio's own toasts would render markup.
const box = element.querySelector(".sd-toasts");
const said = box.querySelector("[role=status]");
const STAY = 8000; // ms
const line = (told, props = {}) => {
  const node = h("p", props, told, h("button", { type: "button", class: "sd-close", "aria-label": "Dismiss", onclick: () => node.remove() }, "×"));
  return node;
};
const pass = (node, stay) => setTimeout(() => node.remove(), stay);
const tell = (told) => {
  const node = line(told, { role: "alert" });
  box.append(node);
  return node;
};
watch("value", () => {
  const { text, unsaid } = props.value || {};
  if (!text) return;
  pass(tell(text), STAY);
  if (unsaid) document.dispatchEvent(new CustomEvent("steerdeck:unsaid", { detail: unsaid })); // message.js
});
document.addEventListener("steerdeck:say", (event) => {
  said.replaceChildren(line(event.detail));
  pass(said.firstChild, STAY / 2);
});
// Gradio loads the page anew after a broken connection. Nobody may be looking then: this one stays.
const lost = stored.get("talked"); // thread.js
const [arrival] = performance.getEntriesByType("navigation");
if (lost && ["reload", "back_forward"].includes(arrival?.type)) tell("The conversation is lost: the page was loaded anew, as after a broken connection. Rack and settings are kept.");
