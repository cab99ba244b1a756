// Numbers, spans of time and small elements, written for people.

const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
export const NONE = "–";

/** How values are shown: divided by `factor`, in `unit`. Only bits take a prefix, chosen for the larger values. */
export function scaleFor(values, unit) {
  if (unit !== "bits") return { factor: 1, unit };
  const sizes = values.filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
  const large = sizes[Math.floor(0.95 * (sizes.length - 1))] ?? 0;
  const [factor, prefix] = PREFIXES.find(([size]) => large >= size) ?? [1, ""];
  return { factor, unit: `${prefix}bit` };
}

/** A number with four significant digits, never more than its whole part. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  const whole = Math.floor(Math.log10(Math.abs(value))) + 1;
  const decimals = Math.max(0, Math.min(6, digits - Math.max(whole, 1)));
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace("-", "−");
}

export const amount = (value, scale) =>
  Number.isFinite(value) ? `${number(value / scale.factor)} ${scale.unit}` : NONE;

export const percent = (share, decimals = 1, sign = false) =>
  Number.isFinite(share) ? `${sign && share > 0 ? "+" : ""}${(100 * share).toFixed(decimals).replace("-", "−")} %` : NONE;

/** Seconds as one would say them: 45 s, 20 min, 1 h 5 min, 4 d. */
export function duration(seconds) {
  if (seconds < 60) return `${+seconds.toPrecision(3)} s`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const first = units.findIndex(([size]) => seconds >= size);
  const [size, name] = units[first];
  const rest = units[first + 1] ? Math.round((seconds % size) / units[first + 1][0]) : Math.round(seconds % size);
  const restName = units[first + 1]?.[1] ?? "s";
  return rest ? `${Math.floor(seconds / size)} ${name} ${rest} ${restName}` : `${Math.floor(seconds / size)} ${name}`;
}

/** Seconds since 1970 of an ISO time; one without a zone is read on the data's own clock. */
export const seconds = text => Date.parse(/(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`) / 1000;

/** A time of the data's clock, such as 2018-03-05 15:16. */
export const moment = at => new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ");

export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** An element with text and attributes; children may be elements or texts. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A large number with what it is and what it means. */
export const tile = (label, value, note = "", tone = "") =>
  element("div", { class: `tile ${tone}` }, element("span", {}, label), element("b", {}, value), element("small", {}, note));
