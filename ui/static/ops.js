// What an op makes of a strength: its words, how far its slider goes, and what to expect there. An entry's
// lo, hi, step and band (ui/rack.py) are those of a level; a factor is none.
const OPS = { clamp: "Clamp", add: "Add", scale: "Scale", ablate: "Ablate", at_least: "At least", at_most: "At most" };
const DOES = {
  clamp: "sets the activation to this",
  add: "adds this to the activation",
  scale: "multiplies the activation by this",
  ablate: "sets the activation to zero",
  at_least: "raises the activation to this where it is lower",
  at_most: "lowers the activation to this where it is higher",
};
const explained = ({ op, reads }) => `${op}: ${DOES[op]}${reads ? "" : "; of a dictionary that cannot be read, features can only be added"}`;
const [FURTHEST, ROOM] = [1e6, 1.6]; // those of ui/slider.py
const FACTOR = 2; // to begin a scale with: one that shows
const clampTo = (value, lo, hi) => Math.min(hi, Math.max(lo, value));
const levelled = ({ op }) => op !== "scale";
const measured = (entry) => levelled(entry) && entry.unit === "max"; // in multiples of the maximum
const neutral = (entry) => (levelled(entry) ? 0 : 1); // where the fill begins
const reach = (entry) => {
  const { op, lo, hi, step } = entry;
  if (op === "scale") return [0, 4, 0.1];
  if (op === "at_most" && measured(entry)) return [0, 2, 0.05]; // nothing is to be lowered above the maximum
  return [op.startsWith("at_") ? 0 : lo, hi, step]; // what fires lies above zero
};
// The slider's ends and step; where the strength lies beyond an end, as far as it leaves room to turn on.
const span = (entry) => {
  const [lo, hi, step] = reach(entry);
  const { strength } = entry;
  const end = clampTo(ROOM * strength, -FURTHEST, FURTHEST);
  return [strength < lo ? Math.floor(end) : lo, strength > hi ? Math.ceil(end) : hi, step];
};
// Another op. A level stays what it was; from a level to a factor and back each is found as it was left.
const operate = (entry, op) => {
  const levels = levelled({ op });
  if (levels !== levelled(entry)) [entry.strength, entry.other] = [entry.other ?? (levels ? entry.level : FACTOR), entry.strength];
  entry.op = op;
};
const banded = (entry) => entry.band && entry.unit === "max" && entry.op === entry.band_op;
const reaching = ({ strength, reach }) => {
  const part = short(strength / reach);
  return `${part === "0.5" ? "half of" : `${part} ×`} the residual's length`;
};
const within = ({ strength, band: [onset, breakdown] }) => {
  if (breakdown !== null && strength > breakdown) return "too strong";
  if (strength >= onset) return "in the safe band";
  return strength > 0 ? "may not show" : "below its natural level";
};
const scaling = ({ strength }) => {
  if (strength === 1) return "changes nothing";
  if (strength > 0) return `fires ${strength > 1 ? "stronger" : "weaker"}`;
  return strength === 0 ? "held at zero" : "fires reversed";
};
const bounding = (entry) => {
  const { op, strength, band, band_op: by } = entry;
  if (op === "at_least" && strength <= 0) return "changes nothing";
  if (op === "at_most" && strength <= 0) return strength < 0 ? "below its natural level" : "held at zero";
  if (op === "at_most") return measured(entry) && strength >= 1 ? "rarely acts" : "";
  return band ? `band measured for ${OPS[by].toLowerCase()}` : "";
};
// What to expect of an entry, in a few words.
const zone = (entry) => {
  const { on, op, unit, band, band_op: by } = entry;
  if (!on) return "off";
  if (op === "ablate") return "held at zero";
  if (op === "scale") return scaling(entry);
  if (unit === "raw" && op === "add" && entry.reach) return reaching(entry);
  if (banded(entry)) return within(entry);
  if (op.startsWith("at_")) return bounding(entry);
  return op === by || !band ? "" : `band measured for ${OPS[by].toLowerCase()}`;
};
