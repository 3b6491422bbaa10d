// The token strip: every token of a reply over the levels of the features that were edited.
// A bar is what the feature was set to, its filled foot what the model had by itself. The line under
// a token is darker the further (KL) steering moved the model there.
const strip = () => {
  const tokens = h("div", { class: "sd-tokens", role: "list", "aria-label": "Tokens and their activations" });
  const key = h("div", { class: "sd-legend" });
  const node = h("details", { class: "sd-strip", hidden: true },
    h("summary", {}, h("span", {}, "Where it fired"), key), tokens);
  const tip = h("div", { class: "sd-tip", role: "tooltip", hidden: true });
  node.append(tip);
  const legends = []; // {at: the token from which on, names: colour -> label}
  const told = new Map(); // every colour and label that was ever in the legend
  const peaks = new Map(); // colour -> largest level seen
  const cells = [];
  const early = []; // marks at tokens that have not come yet

  const peak = (number, level) => {
    if (!(level > (peaks.get(number) || 0))) return;
    peaks.set(number, level);
    tokens.style.setProperty(`--peak${number}`, level);
  };
  const bar = ([number, before, after]) => {
    peak(number, Math.max(Math.abs(before), Math.abs(after)));
    return h("i", { "data-colour": number, style: { "--c": colour(number), "--before": Math.abs(before), "--after": Math.abs(after), "--peak": `var(--peak${number})` } });
  };
  const rule = (text) => h("span", { class: "sd-turned", role: "listitem", title: text }, h("b", {}, text));
  const add = ([text, readings, kl, outlooks]) => {
    const due = early.filter((one) => one.at <= cells.length);
    if (due.length) tokens.append(rule(due.at(-1).text));
    early.splice(0, due.length);
    const cell = h("span", { class: "sd-token", role: "listitem", tabindex: cells.length ? "-1" : "0" }, h("span", {}, visible(text)), h("span", { class: "sd-bars" }, readings.map(bar)),
      Number.isFinite(kl) && h("span", { class: "sd-kl", style: { "--kl": `${Math.round((100 * kl) / (1 + kl))}%` } }));
    cell.reading = { at: cells.length, text, readings, kl, outlooks };
    name(cell);
    cells.push(cell);
    tokens.append(cell);
    if (readings.length || Number.isFinite(kl)) node.hidden = false;
  };
  const mark = (at, text) => {
    if (!cells[at]) early.push({ at, text });
    else if (cells[at].previousSibling?.classList.contains("sd-turned")) cells[at].previousSibling.title = text;
    else cells[at].before(rule(text));
  };
  const legend = (features, at = 0) => {
    legends.push({ at, names: new Map(features) });
    cells.slice(at).forEach(name);
    for (const [number, label] of features) told.set(`${number} ${label}`, [number, label]);
    key.replaceChildren(...[...told.values()].map(([number, label]) => h("span", { style: { "--c": colour(number) } }, label)));
  };
  // A colour goes to another feature when the rack is replaced while the reply is written.
  const labelAt = (at, number) => legends.findLast((one) => one.at <= at && one.names.has(number))?.names.get(number) || "";
  const level = ([, before, after]) => `${short(before)} → ${short(after)}`;
  const moved = (kl) => `moved by ${short(kl)} nats (KL from unsteered)`;
  // What the tip shows at a glance, for those who hear it.
  const name = (cell) => {
    const { at, text, readings, kl } = cell.reading;
    const heard = readings.map((reading) => `${labelAt(at, reading[0])} ${level(reading)}`);
    if (!heard.length) heard.push("nothing steered here");
    if (Number.isFinite(kl)) heard.push(moved(kl));
    cell.setAttribute("aria-label", `${visible(text)}: ${heard.join(", ")}`);
  };
  const outlook = (title, [own, likely]) =>
    h("div", { class: "sd-outlook" }, h("b", {}, title), h("span", {}, `this one ${percent(own)}`),
      likely.map(([text, share]) => h("span", {}, h("code", {}, visible(text)), ` ${percent(share)}`)));
  // Fixed: within the scrolled thread it would make that longer, which moves the token from under the
  // pointer, which hides the tip again, frame by frame.
  let pointed = null;
  const place = () => {
    const [frame, box] = [node.getBoundingClientRect(), pointed.getBoundingClientRect()];
    const [left, below] = [Math.min(box.left, frame.right - tip.offsetWidth), box.bottom + 4];
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : box.top - tip.offsetHeight - 4}px`;
  };
  const hide = () => {
    tip.hidden = true;
    removeEventListener("scroll", place, true);
  };
  const show = (cell) => {
    if (!cell || !cell.reading) return hide();
    const { at, text, readings, kl, outlooks } = cell.reading;
    tip.replaceChildren(h("code", {}, visible(text)), ...readings.map((reading) =>
      h("p", { style: { "--c": colour(reading[0]) } }, h("b", {}, labelAt(at, reading[0])), ` ${level(reading)}`)));
    if (!readings.length) tip.append(h("p", {}, "nothing steered here"));
    if (Number.isFinite(kl)) tip.append(h("div", { class: "sd-moved" }, moved(kl)));
    if (outlooks) tip.append(h("div", { class: "sd-outlooks" }, outlook("Steered", outlooks[0]), outlook("Unsteered", outlooks[1])));
    pointed = cell;
    tip.hidden = false;
    place();
    addEventListener("scroll", place, true);
  };
  tokens.addEventListener("pointerover", (event) => show(event.target.closest(".sd-token")));
  tokens.addEventListener("pointerleave", hide);
  // One token is a stop of the Tab key, the one that had the focus last; the arrows reach the others.
  tokens.addEventListener("focusin", (event) => {
    const cell = event.target.closest(".sd-token");
    if (cell) cells.forEach((one) => (one.tabIndex = one === cell ? 0 : -1));
    show(cell);
  });
  tokens.addEventListener("focusout", hide);
  tokens.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && cells[cells.indexOf(event.target) + step];
    if (next) next.focus();
  });
  const follow = () => { if (!tokens.matches(":hover")) tokens.scrollTop = tokens.scrollHeight; };
  return { node, add, mark, legend, follow };
};
