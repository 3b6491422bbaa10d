// The first screen: one click from here is a steered reply.
const svg = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const bridge = () => {
  const node = svg("svg", { viewBox: "0 0 560 122", class: "sd-bridge", "aria-hidden": "true" });
  const main = (x) => { const t = (x - 140) / 280; return 14 * (1 - t) ** 2 + 312 * t * (1 - t) + 14 * t ** 2; };
  const side = (x) => { const t = x / 140; return 94 - 80 * t ** 2.2; };
  let hangers = "";
  for (let x = 14; x < 560; x += 14) {
    const y = x < 140 ? side(x) : x > 420 ? side(560 - x) : main(x);
    if (Math.abs(x - 140) > 6 && Math.abs(x - 420) > 6) hangers += `M${x} ${y.toFixed(1)}V98`;
  }
  let cable = "M0 94";
  for (let x = 4; x <= 560; x += 4) cable += `L${x} ${(x < 140 ? side(x) : x > 420 ? side(560 - x) : main(x)).toFixed(1)}`;
  node.append(
    svg("path", { d: hangers, class: "sd-hanger" }),
    svg("path", { d: cable, class: "sd-cable" }),
    svg("path", { d: [136, 144, 416, 424].map((x) => `M${x} 8V122`).join("") + [136, 416].flatMap((x) => [24, 48, 72].map((y) => `M${x} ${y}h8`)).join(""), class: "sd-tower" }),
    svg("path", { d: "M0 98H560", class: "sd-deck" }));
  return node;
};
const drawHome = (home) => {
  const [first, ...others] = home.presets || [];
  const ask = (text, preset, props = {}) => h("button", { type: "button", ...props, onclick: () => trigger("ask", { text, preset }) }, text);
  const prompts = home.examples || [];
  return h("section", { class: "sd-home" },
    h("h1", {}, "Turn one thought up. ", h("em", {}, "Then talk to it.")),
    h("p", { class: "sd-lead" }, home.model && [h("b", {}, home.model), " is ready. "], "A feature is one direction in its activations: turn one up, and every word bends towards it."),
    first && h("div", { class: "sd-first" }, bridge(),
      h("div", { class: "sd-first-text" }, h("h2", {}, h("button", { type: "button", class: "sd-load", title: "Load into the rack", onclick: () => trigger("choose", { name: first.name }) }, first.title || first.name)), h("p", {}, first.description || ""),
        h("div", { class: "sd-asks", role: "group", "aria-label": `Ask the model steered towards ${first.title || first.name}` },
          prompts.map((text, i) => ask(text, first.name, { class: i === 0 ? "sd-primary" : "sd-ask" }))))),
    others.length > 0 && h("div", { class: "sd-others" }, h("span", {}, "Or load"),
      others.map((preset) => h("button", { type: "button", title: preset.description || "", onclick: () => trigger("choose", { name: preset.name }) }, preset.title || preset.name)),
      home.more > others.length + 1 && h("button", { type: "button", class: "sd-all", "data-open": "presets" }, `All ${home.more} presets`)),
    !first && home.model && h("div", { class: "sd-others" }, h("span", {}, "Search for a feature and add it to the rack, then ask"),
      prompts.slice(0, 2).map((text) => ask(text, null))));
};
