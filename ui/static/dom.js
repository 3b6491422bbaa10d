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
const copy = async (text, button) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No clipboard outside https and localhost: a selected field copies everywhere.
    const field = h("textarea", { style: { position: "fixed", opacity: "0" } });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = before), 1200);
};
