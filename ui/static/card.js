// The details drawer. props.value is that of ui/card.py, which made and escaped its HTML.
const card = element.querySelector(".sd-card");
const body = element.querySelector(".sd-card-body");
const drawer = (name) => document.dispatchEvent(new CustomEvent("steerdeck:drawer", { detail: name })); // page.js
let wanted = null; // the feature that was asked for last; an answer about another one comes too late

document.addEventListener("steerdeck:look", ({ detail: { ref, label } }) => {
  wanted = ref;
  card.setAttribute("aria-busy", "true");
  body.replaceChildren(h("p", { class: "sd-over" }, `Feature ${ref}`), h("h2", { dir: "auto" }, label || ref), h("p", {}, "…"));
  element.closest(".sd-drawer").scrollTop = 0;
  if (document.body.dataset.drawer !== "card") drawer("card");
});
const draw = () => {
  const { ref, html, near, wants } = props.value || {};
  if (!ref || ref !== wanted) return;
  const held = body.contains(document.activeElement);
  if (near !== undefined) {
    const place = body.querySelector(".sd-nearest");
    if (place) place.innerHTML = near;
    return;
  }
  card.removeAttribute("aria-busy");
  body.innerHTML = html;
  const add = body.querySelector("[data-add]");
  if (add) {
    add.disabled = racked(add.dataset.add);
    if (add.disabled) add.textContent = "In the rack";
  }
  if (held) card.querySelector(".sd-close").focus({ preventScroll: true });
  if (wants) trigger("near", { ref });
};
body.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.add) { trigger("take", { ref: button.dataset.add }); drawer(null); }
  else if (button.dataset.look) {
    details(button.dataset.look, button.textContent);
    card.querySelector(".sd-close").focus({ preventScroll: true });
  }
});
watch("value", draw);
