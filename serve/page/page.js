// The page's state and what happens when a person changes it. Every number comes from the service's own API.

import { Chart } from "./chart.js";
import { readRows, slice, writeRows } from "./rows.js";
import { showBoard, showFacts, showNoBoard } from "./story.js";
import { amount, duration, element, moment, NONE, percent, plural, scaleFor, seconds, tile } from "./texts.js";

const SPANS = [90, 360, 720]; // rows before the origin
const REPLAY_S = 24 * 3600;
const ADAPTED_ROWS = 100; // more than the service lets intervals adapt by, so that they are what they are for all rows
const EXAMPLE_ROWS = 60;
const RETRY_S = 3, PAUSE_MS = 150;

const find = id => document.getElementById(id);
const chart = new Chart(find("chart"));
/** `info`: answer of /v1/stations; `rows`: what is forecast from, `recorded` or `own`; `token`: kept here only. */
const now = { token: "", info: null, recorded: null, own: null, rows: null, zone: "", story: null, call: null, timer: 0 };

/** What the service said instead of an answer. */
class Refusal extends Error {
  constructor(status, { title = "The service refused", detail = "", problems = [] } = {}, retryAfter = 0) {
    super(detail || title);
    Object.assign(this, { status, title, detail, problems, retryAfter });
  }
}

async function ask(path, { body, signal } = {}) {
  const headers = now.token ? { Authorization: `Bearer ${now.token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, document, Number(answer.headers.get("Retry-After")));
  return document;
}

/** Ask for the model and show the page, or say what stands in the way. */
async function begin() {
  clearTimeout(now.timer);
  try {
    now.info = await ask("v1/stations");
    now.story = null;
  } catch (problem) {
    return stop(problem);
  }
  const { model, stations, targets, step_s: step, max_horizon: most, direct_steps: direct, lookback } = now.info;
  find("model").textContent = `${model.kind.toUpperCase()} · ${model.name} version ${model.version}`;
  document.title = `Load forecasts · ${model.name}`;
  offer("station", stations.map(({ series }) => [series, series]));
  offer("target", targets.map(name => [name, name]));
  offer("span", SPANS.map(rows => [rows, `last ${duration(rows * step)}`]));
  find("target-label").hidden = targets.length === 1;
  if (!find("horizon").max) {
    find("horizon").max = Math.min(60, most);
    find("horizon").value = Math.min(Math.max(10, direct), find("horizon").max);
  }
  find("own-need").textContent = `The model reads time, ${stations[0].columns.map(column).join(", ")}; a row every ` +
    `${duration(step)}, ${lookback} at least. With ${now.info.context_rows} rows the forecast is as good as it gets.`;
  find("state").hidden = true;
  find("app").hidden = false;
  tellStory();
  return choose();
}

/** Fill a list to choose from; what was chosen before stays so. */
function offer(id, choices) {
  const chosen = find(id).value;
  find(id).replaceChildren(...choices.map(([value, text]) => new Option(text, value, false, `${value}` === chosen)));
}

const column = ({ name, unit }) => (unit ? `${name} (${unit})` : name);
const station = () => now.info.stations.find(({ series }) => series === find("station").value);

/** Say why there is nothing to show; ask again by itself where that can help. */
function stop(problem) {
  const [title, text] = told(problem), locked = problem.status === 401, retry = problem.retryAfter || RETRY_S;
  const helps = problem.status === 503 || !problem.status;
  find("state").dataset.kind = helps ? "busy" : "stop";
  find("state-title").textContent = title;
  find("state-text").textContent = helps ? `${text} This page asks again every ${duration(retry)}.` : text;
  find("token-form").hidden = !locked;
  find("state").hidden = false;
  find("app").hidden = true;
  if (locked) find("token").focus();
  if (helps) now.timer = setTimeout(begin, 1000 * retry);
}

function told(problem) {
  switch (problem.status) {
    case undefined: return ["The service does not answer", "It may be starting."];
    case 401: return ["An access token is needed",
      now.token ? "The service did not take that one." : "It stays in this page and is gone when you close it."];
    case 503: return ["The service has no champion yet",
      `${saidIn(problem)} A model that flts run promotes is picked up within seconds.`];
    default: return [problem.title, saidIn(problem)];
  }
}

/** All that a refusal says, in one text. */
function saidIn({ detail, title, problems = [] }) {
  const each = problems.map(({ field, reason, fix }) => `${field}: ${reason}: ${fix}`);
  return [...(each.length ? [] : [detail || title]), ...each].map(text => text.replace(/[.\s]*$/, ".")).join(" ");
}

/** Show the facts, and the leaderboard once there is one. */
async function tellStory() {
  showFacts(now.info, station());
  try {
    now.story ??= await ask("v1/leaderboard");
    showBoard(now.story, find("station").value, now.info.stations.length, find("target").value);
  } catch (problem) {
    showNoBoard(`There is no leaderboard to show. ${saidIn(problem)}`);
    if (problem.status >= 500) setTimeout(tellStory, 1000 * RETRY_S); // the stores may be slow or away
  }
}

/** Take the rows of the station and the source that are chosen. */
async function choose() {
  const own = find("source").value === "own";
  find("own").hidden = !own;
  if (own) return now.own ? take(now.own, now.info.lookback - 1) : wait("Paste or open rows to forecast them.");
  const { series } = station();
  const most = Math.ceil(REPLAY_S / now.info.step_s) + now.info.context_rows + ADAPTED_ROWS;
  try {
    if (now.recorded?.series !== series) {
      wait("Loading the rows…");
      now.recorded = await ask(`v1/history?series=${encodeURIComponent(series)}&rows=${Math.min(most, now.info.max_rows)}`);
    }
  } catch (problem) {
    if (problem.status === 401 || !problem.status) return stop(problem);
    find("source").value = "own";
    find("own").hidden = false;
    return wait(`There are no recorded rows. ${saidIn(problem)} You can forecast rows of your own.`);
  }
  const { time, test_from: from } = now.recorded;
  const replay = Math.ceil(REPLAY_S / now.info.step_s);
  return take(now.recorded, Math.max(from, time.length - 1 - replay, now.info.lookback - 1));
}

/** Forecast from these rows; the origin can be any from `first` on. */
function take(rows, first) {
  now.rows = rows;
  now.zone = rows.time.every(text => text.endsWith("Z")) ? " UTC" : "";
  find("clock").textContent = now.zone ? "Times are UTC." : "Times are on the data's own clock, which names no zone.";
  const last = rows.time.length - 1;
  Object.assign(find("origin"), { min: Math.min(first, last), max: last, value: last });
  return forecast();
}

/** There is nothing to forecast from. */
function wait(message) {
  now.rows = null;
  now.call?.abort();
  blank(message);
}

/** Show a text in place of a forecast. */
function blank(message) {
  chart.clear(message);
  for (const id of ["tiles", "warnings"]) find(id).replaceChildren();
  find("steps").tBodies[0].replaceChildren();
  find("answer").textContent = "";
}

const origin = () => Number(find("origin").value);

/** Ask for the forecast from the chosen origin and show it. */
async function forecast() {
  if (!now.rows || !find("controls").reportValidity()) return;
  const at = origin(), level = Number(find("level").value), horizon = Number(find("horizon").value);
  find("horizon-time").textContent = `= ${duration(horizon * now.info.step_s)}`;
  find("origin-time").textContent = clock(now.rows.time[at]);
  find("origin").setAttribute("aria-valuetext", clock(now.rows.time[at]));
  clearTimeout(now.timer);
  now.call?.abort();
  now.call = new AbortController();
  const enough = Math.min(now.info.context_rows + ADAPTED_ROWS, now.info.max_rows);
  const history = { series: station().series, columns: flat(slice(now.rows, Math.max(0, at + 1 - enough), at + 1)) };
  find("forecast").setAttribute("aria-busy", "true");
  try {
    const answer = await ask("v1/forecast", { body: { history, horizon, levels: [level] }, signal: now.call.signal });
    if (answer.model.version !== now.info.model.version) return begin(); // a new champion since the page was made
    show(answer.forecasts[0], at, level);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (problem.status === 401 || !problem.status) return stop(problem);
    blank(`${problem.title}. ${saidIn(problem)}`);
    if (problem.status >= 500) now.timer = setTimeout(forecast, 1000 * (problem.retryAfter || RETRY_S));
  }
  find("forecast").removeAttribute("aria-busy");
}

const flat = ({ time, columns }) => ({ time, ...columns });
const clock = text => `${moment(seconds(text))}${now.zone}`;

/** Draw an answer and say it in words and numbers. */
function show(made, at, level) {
  const target = find("target").value, { columns, time } = now.rows;
  const steps = made.steps.filter(step => step.target === target);
  const actual = steps.map((_, i) => columns[target][at + 1 + i] ?? null);
  const first = Math.max(0, at + 1 - Number(find("span").value));
  const known = columns[target].slice(first, at + 1);
  const scale = scaleFor([...known, ...steps.map(step => step.value)], made.unit);
  const name = percent(steps[0].intervals[0]?.level ?? level, 0);
  say(steps, made, scale, name);
  tiles(steps, actual, columns[target][at], scale);
  table(steps, actual, scale, name);
  find("warnings").replaceChildren(...made.warnings.map(({ message }) => element("li", {}, message)));
  // The forecast starts from the last known value, so that one step is a line too.
  const blank = known.slice(1).map(() => null), join = known.at(-1), gap = steps.map(() => null);
  const joined = key => [...blank, join, ...steps.map(step => step[key])];
  chart.draw({
    times: [...time.slice(first, at + 1).map(seconds), ...steps.map(step => seconds(step.time))],
    past: [...known, ...gap], came: [...blank, join, ...actual],
    middle: joined("value"), lower: joined("lower"), upper: joined("upper"),
    origin: seconds(time[at]), level: name, scale, zone: now.zone,
    axis: `${target}, ${scale.unit} per ${duration(made.step_s)}`,
    title: `Chart: ${target} of ${made.series} until ${clock(time[at])}, and the forecast of the next ${plural(steps.length, "step")}. ${find("answer").textContent}`,
  });
}

/** The next steps in one sentence, for everyone and for screen readers. */
function say(steps, made, scale, name) {
  const last = steps.at(-1);
  const text = ({ time, value, lower, upper }) => `${clock(time)}: ${amount(value, scale)}` +
    (lower === null ? "" : ` (${name} interval ${amount(lower, scale)} to ${amount(upper, scale)})`);
  find("answer").textContent = `${made.series}, ${text(steps[0])}${steps.length > 1 ? `; ${text(last)}` : ""}.`;
}

function tiles(steps, actual, last, scale) {
  const [next] = steps, pairs = steps.map((step, i) => [step, actual[i]]).filter(([, came]) => came !== null);
  const mean = found => found.reduce((sum, value) => sum + value, 0) / found.length;
  const error = mean(pairs.map(([step, came]) => Math.abs(step.value - came)));
  const naive = mean(pairs.map(([, came]) => Math.abs(last - came)));
  const inside = pairs.filter(([step, came]) => step.lower <= came && came <= step.upper).length;
  find("tiles").replaceChildren(
    tile("Next step", amount(next.value, scale), next.lower === null ? "no interval" : `${amount(next.lower, scale)} to ${amount(next.upper, scale)}`),
    ...(pairs.length ? [
      tile("What came", amount(actual[0], scale), actual[0] === null ? "not reported" : `${amount(actual[0] - next.value, scale)} off`),
      tile("Inside the interval", `${inside} of ${pairs.length}`, pairs.length === 1 ? "step" : "steps"),
      tile("Mean absolute error", amount(error, scale), `${amount(naive, scale)} if the last value stayed`, error <= naive ? "good" : "bad"),
    ] : [tile("What came", NONE, "these rows end here: choose an earlier one to compare")]),
  );
}

function table(steps, actual, scale, name) {
  const [head, body] = find("steps").children;
  const row = (kind, cells) => element("tr", {}, ...cells.map((cell, i) => element(i ? kind : "th", { scope: kind === "th" ? "col" : "row" }, cell)));
  head.replaceChildren(row("th", ["Time", "Forecast", `${name} from`, "to", "What came", "Error"]));
  body.replaceChildren(...steps.map(({ time, value, lower, upper }, i) => row("td", [
    clock(time), ...[value, lower, upper, actual[i], actual[i] === null ? null : actual[i] - value].map(found => amount(found, scale)),
  ])));
}

/** Take what is in the text field as rows. */
function useOwn() {
  try {
    now.own = readRows(find("own-text").value, station().columns.map(({ name }) => name));
    find("own-said").textContent = `Read ${plural(now.own.time.length, "row")}.`;
    choose();
  } catch (problem) {
    now.own = null;
    find("own-said").textContent = problem.message;
    wait("There is nothing to forecast from yet.");
  }
}

function example() {
  const known = now.recorded;
  find("own-text").value = known ? writeRows(slice(known, -EXAMPLE_ROWS)) : ["time", ...station().columns.map(({ name }) => name)].join(",");
  find("own-said").textContent = known ? `These are the last ${EXAMPLE_ROWS} recorded rows: change them as you like.`
    : "That is the line of names; no recorded rows are loaded.";
}

function move(steps) {
  const slider = find("origin");
  slider.value = steps === Infinity ? slider.max : Number(slider.value) + steps;
  forecast();
}

let pause = 0;
const soon = () => {
  clearTimeout(pause);
  pause = setTimeout(forecast, PAUSE_MS);
};

find("controls").addEventListener("submit", event => event.preventDefault());
find("station").addEventListener("change", () => {
  now.own = null;
  choose();
  tellStory();
});
find("source").addEventListener("change", choose);
find("target").addEventListener("change", () => {
  forecast();
  tellStory();
});
for (const id of ["horizon", "level", "span", "origin"]) find(id).addEventListener("input", soon);
find("earlier").addEventListener("click", () => move(-1));
find("later").addEventListener("click", () => move(1));
find("latest").addEventListener("click", () => move(Infinity));
find("own-use").addEventListener("click", useOwn);
find("own-example").addEventListener("click", example);
find("own-file").addEventListener("change", async ({ target }) => {
  if (!target.files.length) return;
  find("own-text").value = await target.files[0].text();
  target.value = "";
  useOwn();
});
find("token-form").addEventListener("submit", event => {
  event.preventDefault();
  now.token = find("token").value.trim();
  find("token").value = "";
  begin();
});
begin();
