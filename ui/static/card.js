// The details drawer. props.value: {html, n}; ui/card.py made and escaped the HTML.
const box = element.querySelector(".sd-card");
const drawer = (name) => document.dispatchEvent(new CustomEvent("steerdeck:drawer", { detail: name })); // page.js
const draw = () => {
  const html = (props.value || {}).html || "";
  box.innerHTML = html;
  if (html) {
    if (document.body.dataset.drawer !== "card") drawer("card");
    box.scrollTop = 0;
    const add = box.querySelector("[data-add]");
    add.disabled = [...document.querySelectorAll("#rack [data-ref]")].some((node) => node.dataset.ref === add.dataset.add);
    if (add.disabled) add.textContent = "In the rack";
    box.querySelector(".sd-close")?.focus({ preventScroll: true });
  }
};
box.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.add) { trigger("take", { ref: button.dataset.add }); drawer(null); }
  else if (button.dataset.look) trigger("look", { ref: button.dataset.look });
});
watch("value", draw);
