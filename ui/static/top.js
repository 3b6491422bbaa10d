// The header and the banner. props.value: {model, dictionaries, thinks, state, text, progress} (ui/status.py).
const model = element.querySelector(".sd-model");
const banner = element.querySelector(".sd-banner");
const draw = () => {
  const value = props.value || {};
  model.textContent = value.model || "";
  document.body.classList.toggle("sd-dictionaries", value.dictionaries > 1); // the rack names them
  document.body.classList.toggle("sd-thinks", value.thinks === true); // when.js offers thinking blocks
  element.dataset.state = value.state || "connecting";
  const bar = typeof value.progress === "number" ? h("progress", { max: "1", value: value.progress, "aria-label": "Loading" }) : null;
  banner.replaceChildren(...(value.text ? [h("span", {}, value.text), bar].filter(Boolean) : []));
  banner.hidden = !value.text;
};
element.querySelector("[data-new]").addEventListener("click", () => trigger("fresh", {}));
element.querySelector("[data-share]").addEventListener("click", (event) =>
  document.dispatchEvent(new CustomEvent("steerdeck:copy-link", { detail: event.currentTarget.querySelector("span") })));
// The banner may wrap on a phone; the page begins below it.
new ResizeObserver(() => document.body.style.setProperty("--banner", `${banner.offsetHeight}px`)).observe(banner);
watch("value", draw);
draw();
